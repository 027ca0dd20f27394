"""Protocols and bodies: TLS, h2, h2c, gRPC, websockets, HTTP/1.0, 1xx, trailers, gigabytes. Clients and servers are not ours."""

import asyncio
import http.server
import json
import os
import socket
import subprocess
import threading
from concurrent import futures

import grpc
import pytest
import websockets
import websockets.asyncio.client
import websockets.asyncio.server

from conftest import Airline, Banyan, Nginx, curl, header, lease_port, wait_for

GIB = 1 << 30
SIZE = int(float(os.environ.get("BANYAN_TEST_BODY_GIB", "5")) * GIB)


def one_backend(url, extra="", route=""):
    return f'version: 1\ndefaults: {{legacy: b, timeouts: {{first_byte: 30s}}}}\nbackends: {{b: {{urls: ["{url}"]{extra}}}}}\n{route}'


def test_h2_over_tls_and_h1_over_tls(start, certificates):
    a = lease_port()
    start(Nginx, f'server {{ listen 127.0.0.1:{a}; location / {{ return 200 "$http_x_forwarded_proto $http_host\\n"; }} }}', a=a)
    tls = lease_port()
    settings = f"""
version: 1
attribution_header: true
listeners:
  - {{name: site, address: "127.0.0.1:{tls}", tls: {{cert: {certificates}/server.pem, key: {certificates}/server.key}}, h2: true}}
"""
    banyan = start(Banyan, one_backend(f"http://127.0.0.1:{a}"), settings=settings, listen=False)
    for version in ["--http2", "--http1.1"]:
        args = ["curl", "-sS", version, "--cacert", f"{certificates}/ca.pem", "--resolve", f"shop.example.com:{tls}:127.0.0.1"]
        out = subprocess.run([*args, "-w", "%{http_version}", f"https://shop.example.com:{tls}/x"], capture_output=True, text=True, timeout=20)
        assert out.stdout == f"https shop.example.com:{tls}\n" + ("2" if version == "--http2" else "1.1"), out
    out = subprocess.run(["h2load", "-n", "2000", "-c", "4", "-m", "20", f"https://127.0.0.1:{tls}/"], capture_output=True, text=True, timeout=60)
    assert "2000 succeeded, 0 failed, 0 errored" in out.stdout, out.stdout
    banyan.counts(2002, "banyan_requests_total", route="default", code="200")
    # The certificate is read again on HUP without losing the listener.
    before = banyan.text()
    banyan.popen.send_signal(1)
    assert curl("--cacert", f"{certificates}/ca.pem", f"https://127.0.0.1:{tls}/x")[0] == 200
    assert "not reloaded" not in banyan.text()[len(before):]


def test_a_request_belongs_on_a_connection_that_was_made_for_its_host(start, certificates):
    port, tls = lease_port(), lease_port()
    start(Nginx, f"server {{ listen 127.0.0.1:{port}; location / {{ return 200 $http_host; }} }}", port=port)
    rules = f'version: 1\nbackends: {{b: {{urls: ["http://127.0.0.1:{port}"]}}}}\nroutes: [{{id: r, match: {{prefix: /}}, legacy: b}}]\n'
    settings = f"version: 1\nlisteners: [{{name: site, address: '127.0.0.1:{tls}', tls: {{cert: {certificates}/server.pem, key: {certificates}/server.key}}, h2: true}}]\n"
    banyan = start(Banyan, rules, settings=settings, listen=False)
    for version in ("--http1.1", "--http2"):
        def ask(name, host, version=version):
            return curl(version, "--cacert", f"{certificates}/ca.pem", "--resolve", f"{name}:{tls}:127.0.0.1", "-H", f"Host: {host}", f"https://{name}:{tls}/")[0]

        # The certificate has localhost, shop.example.com and 127.0.0.1; a client that came for one may ask for another of them.
        assert ask("shop.example.com", f"shop.example.com:{tls}") == 200 and ask("shop.example.com", "localhost") == 200
        assert ask("shop.example.com", "bank.example.com") == 421 and ask("localhost", "SHOP.example.com.evil.test") == 421
        # Who came for an address has named nobody.
        assert ask("127.0.0.1", "bank.example.com") == 200
    banyan.counts(4, "banyan_refused_total", cause="misdirected")


def test_the_authorities_of_clients_are_read_again(start, certificates, tmp_path):
    def openssl(*args):
        subprocess.run(["openssl", *args], cwd=tmp_path, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=Other CA")
    openssl("req", *key, "-keyout", "new.key", "-out", "new.csr", "-subj", "/CN=new")
    openssl("x509", "-req", "-in", "new.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", "new.pem", "-days", "2", "-extfile", certificates / "client.cnf")
    clients = tmp_path / "clients.pem"
    clients.write_bytes((certificates / "ca.pem").read_bytes())
    port, tls = lease_port(), lease_port()
    start(Nginx, f"server {{ listen 127.0.0.1:{port}; location / {{ return 200 in; }} }}", port=port)
    rules = f'version: 1\nbackends: {{b: {{urls: ["http://127.0.0.1:{port}"]}}}}\nroutes: [{{id: r, match: {{prefix: /}}, legacy: b}}]\n'
    settings = f"version: 1\nlisteners: [{{name: site, address: '127.0.0.1:{tls}', tls: {{cert: {certificates}/server.pem, key: {certificates}/server.key, client_ca: {clients}}}}}]\n"
    banyan = start(Banyan, rules, settings=settings, listen=False)

    def gets_in(cert, key):
        return curl("--cacert", f"{certificates}/ca.pem", "--cert", cert, "--key", key, f"https://127.0.0.1:{tls}/", check=False)[0] == 200

    old, new = (certificates / "client.pem", certificates / "client.key"), (tmp_path / "new.pem", tmp_path / "new.key")
    assert gets_in(*old) and not gets_in(*new)
    clients.write_text("no certificate")
    banyan.popen.send_signal(1)
    wait_for("the complaint", lambda: "holds no certificate" in banyan.text())
    assert gets_in(*old), "the authorities that were stay"
    clients.write_bytes((tmp_path / "ca.pem").read_bytes())
    banyan.popen.send_signal(1)
    wait_for("the new authority", lambda: gets_in(*new))
    assert not gets_in(*old)


def test_client_certificates_are_asked_for(start, certificates):
    tls = lease_port()
    settings = f"""
version: 1
listeners:
  - {{name: site, address: "127.0.0.1:{tls}", tls: {{cert: {certificates}/server.pem, key: {certificates}/server.key, client_ca: {certificates}/ca.pem}}}}
"""
    rules = "version: 1\nroutes: [{id: ok, match: {prefix: /}, respond: {status: 200, body: in}}]\n"
    start(Banyan, rules, settings=settings, listen=False)
    base = ["--cacert", f"{certificates}/ca.pem", f"https://127.0.0.1:{tls}/"]
    assert curl("--cert", f"{certificates}/client.pem", "--key", f"{certificates}/client.key", *base)[2] == b"in"
    with pytest.raises(AssertionError):
        curl(*base)


def test_a_tls_backend_is_verified_by_its_ca_and_sees_our_certificate(start, certificates):
    a = lease_port()
    server = f"""server {{ listen 127.0.0.1:{a} ssl http2; ssl_certificate {certificates}/server.pem; ssl_certificate_key {certificates}/server.key;
      ssl_client_certificate {certificates}/ca.pem; ssl_verify_client optional; location / {{ return 200 "$ssl_client_verify $server_protocol\\n"; }} }}"""
    start(Nginx, server, a=a)
    rules = f"""
version: 1
backends:
  mutual: {{urls: ["https://127.0.0.1:{a}"], tls: {{ca: {certificates}/ca.pem, cert: {certificates}/client.pem, key: {certificates}/client.key}}}}
  plain: {{urls: ["https://127.0.0.1:{a}"], tls: {{ca: {certificates}/ca.pem, server_name: localhost}}, protocol: h1}}
  stranger: {{urls: ["https://127.0.0.1:{a}"]}}
  misnamed: {{urls: ["https://127.0.0.1:{a}"], tls: {{ca: {certificates}/ca.pem, server_name: other.example}}}}
routes:
  - {{id: mutual, match: {{path: /mutual}}, legacy: mutual}}
  - {{id: plain, match: {{path: /plain}}, legacy: plain}}
  - {{id: stranger, match: {{path: /stranger}}, legacy: stranger}}
  - {{id: misnamed, match: {{path: /misnamed}}, legacy: misnamed}}
"""
    banyan = start(Banyan, rules)
    assert curl(banyan.url + "/mutual")[2] == b"SUCCESS HTTP/2.0\n"
    assert curl(banyan.url + "/plain")[2] == b"NONE HTTP/1.1\n"
    for path in ["/stranger", "/misnamed"]:
        status, _, body = curl(banyan.url + path)
        assert status == 502 and b"backend tls" in body, path


class Origin:
    """A raw TCP origin: records what arrives and answers what it is told, byte for byte."""

    def __init__(self, answer):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.seen = []
        self.answer = answer
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self.one, args=(connection,), daemon=True).start()

    def one(self, connection):
        with connection:
            data = b""
            while b"\r\n\r\n" not in data:
                chunk = connection.recv(65536)
                if not chunk:
                    return
                data += chunk
            self.seen.append(data)
            self.answer(connection, data)


def test_http_1_0_head_and_1xx(start):
    def chunked(connection, data):
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")
        body = b"" if data.startswith(b"HEAD") else b"5\r\nhello\r\n0\r\n\r\n"
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nKeep-Alive: timeout=5\r\nConnection: close\r\n\r\n" + body)

    origin = Origin(chunked)
    banyan = start(Banyan, one_backend(f"http://127.0.0.1:{origin.port}"))

    def raw(request):
        with socket.create_connection(("127.0.0.1", banyan.port), timeout=10) as s:
            s.sendall(request)
            data = b""
            while chunk := s.recv(65536):
                data += chunk
            return data

    answer = raw(b"GET / HTTP/1.0\r\n\r\n")
    assert answer.endswith(b"\r\n\r\nhello") and b"chunked" not in answer.lower(), answer
    answer = raw(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert b"103 Early Hints" in answer and answer.endswith(b"5\r\nhello\r\n0\r\n\r\n") and b"keep-alive: timeout" not in answer.lower(), answer
    answer = raw(b"HEAD / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert b"200 OK" in answer and answer.endswith(b"\r\n\r\n"), answer
    answer = raw(b"GET http://abs.example/p?q=1 HTTP/1.1\r\nHost: abs.example\r\nConnection: close\r\n\r\n")
    assert b"200 OK" in answer and origin.seen[-1].startswith(b"GET /p?q=1 HTTP/1.1\r\n"), origin.seen[-1]


def test_expect_continue_is_answered_and_bytes_go_on_untouched(start):
    airline = start(Airline)
    banyan = start(Banyan, one_backend(f"http://127.0.0.1:{airline.legacy}"))
    big = banyan.folder / "big"
    big.write_bytes(os.urandom(3_000_000))
    status, _, body = curl("-H", "Expect: 100-continue", "--data-binary", f"@{big}", banyan.url + "/upload")
    assert (status, json.loads(body)) == (201, {"bytes": 3_000_000})
    seen = json.loads(curl("--path-as-is", "-H", "X-Case: Ä".encode("latin-1"), banyan.url + "/whoami?a=%2F&b=+;x")[2])
    assert seen["target"] == "/whoami?a=%2F&b=+;x"


def test_websockets_pass_and_outlive_a_reload(start):
    async def scenario():
        async def echo(connection):
            async for message in connection:
                await connection.send(message)

        async with websockets.asyncio.server.serve(echo, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            rules = one_backend(f"http://127.0.0.1:{port}")
            banyan = start(Banyan, rules)
            async with websockets.asyncio.client.connect(f"ws://127.0.0.1:{banyan.port}/chat") as client:
                await client.send("one")
                assert await client.recv() == "one"
                old = banyan.revision()
                banyan.write_rules(rules + "routes: [{id: extra, match: {path: /extra}, legacy: b}]\n")
                await asyncio.to_thread(wait_for, "the new revision", lambda: banyan.revision() != old)
                await client.send(b"x" * 1_000_000)
                assert len(await client.recv()) == 1_000_000
            line = await asyncio.to_thread(banyan.log_lines, 1)
            assert line[0]["http.response.status_code"] == 101 and line[0]["upgrade"] is True

    asyncio.run(scenario())


class Echo(grpc.GenericRpcHandler):
    """Four kinds of call over raw bytes, with trailing metadata and an error."""

    def service(self, details):
        def unary(request, context):
            context.set_trailing_metadata((("x-trailer", "kept"),))
            return request

        def fail(request, context):
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked")

        def server_stream(request, context):
            yield from (request + bytes([n]) for n in range(50))

        def both(requests, context):
            for request in requests:
                yield request

        return {
            "/air.Echo/Unary": grpc.unary_unary_rpc_method_handler(unary),
            "/air.Echo/Fail": grpc.unary_unary_rpc_method_handler(fail),
            "/air.Echo/Down": grpc.unary_stream_rpc_method_handler(server_stream),
            "/air.Echo/Both": grpc.stream_stream_rpc_method_handler(both),
        }.get(details.method)


def test_grpc_end_to_end_in_clear_text(start):
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[Echo()])
    backend = server.add_insecure_port("127.0.0.1:0")
    server.start()
    port = lease_port()
    settings = f'version: 1\nlisteners: [{{name: grpc, address: "127.0.0.1:{port}", h2c: true}}]\n'
    rules = one_backend(f"http://127.0.0.1:{backend}", ", protocol: h2c")
    try:
        start(Banyan, rules, settings=settings, listen=False)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            answer, call = channel.unary_unary("/air.Echo/Unary").with_call(b"hello", timeout=10)
            assert answer == b"hello" and dict(call.trailing_metadata())["x-trailer"] == "kept"
            with pytest.raises(grpc.RpcError) as error:
                channel.unary_unary("/air.Echo/Fail")(b"x", timeout=10)
            assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION and error.value.details() == "as asked"
            assert len(list(channel.unary_stream("/air.Echo/Down")(b"d", timeout=10))) == 50
            messages = [b"m" * n for n in range(100)]
            assert list(channel.stream_stream("/air.Echo/Both")(iter(messages), timeout=10)) == messages
    finally:
        server.stop(None)


def test_addresses_are_balanced_and_unhealthy_ones_left_out(start):
    a, b = lease_port(), lease_port()
    servers = "".join(f'server {{ listen 127.0.0.1:{p}; location / {{ return 200 "{p}\\n"; }} }}' for p in (a, b))
    nginx = start(Nginx, servers, a=a, b=b)
    rules = one_backend("UNUSED").replace('["UNUSED"]', f'["http://localhost:{a}", "http://127.0.0.1:{b}"], health: {{path: /h, interval: 100ms, unhealthy_after: 2, healthy_after: 1}}')
    banyan = start(Banyan, rules)
    got = {curl(banyan.url)[2] for _ in range(10)}
    assert got == {f"{a}\n".encode(), f"{b}\n".encode()}
    nginx.stop()
    wait_for("all unhealthy", lambda: banyan.metric("banyan_backend_health", backend="b") == 0)
    status, _, body = curl(banyan.url)
    assert status == 503 and b"no healthy address" in body
    start(Nginx, f'server {{ listen 127.0.0.1:{b}; location / {{ return 200 "{b}\\n"; }} }}', b=b)
    wait_for("one healthy", lambda: banyan.metric("banyan_backend_health", backend="b") > 0)
    assert {curl(banyan.url)[2] for _ in range(6)} == {f"{b}\n".encode()}


def test_five_gibibytes_each_way_in_bounded_memory(start):
    port = lease_port()
    banyan_settings = f"version: 1\nlimits: {{body: {SIZE}B}}\nlogs: {{access: off}}\n"
    received = []

    class Sink(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self):
            left = int(self.headers["Content-Length"])
            count = 0
            view = memoryview(bytearray(1 << 20))
            while left:
                n = self.rfile.readinto(view[: min(left, 1 << 20)])
                if not n:
                    break
                left, count = left - n, count + n
            received.append(count)
            self.send_response(201)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self):
            # A chunked body without an end in sight until it is there; nothing of it is held anywhere.
            self.send_response(200)
            self.send_header("Content-Length", str(SIZE))
            self.end_headers()
            block = b"z" * (1 << 20)
            for _ in range(SIZE >> 20):
                self.wfile.write(block)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Sink)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        banyan = start(Banyan, one_backend(f"http://127.0.0.1:{port}"), settings=banyan_settings)
        assert curl(banyan.url + "/none", check=False)
        before = banyan.rss_kib()
        peak = before
        sparse = banyan.folder / "sparse"
        with open(sparse, "wb") as f:
            f.truncate(SIZE)
        for args in (["-T", str(sparse), banyan.url + "/up"], ["-o", "/dev/null", banyan.url + "/down"]):
            client = subprocess.Popen(["curl", "-sS", "-f", "-w", "%{size_download}", *args], stdout=subprocess.PIPE, text=True)
            while client.poll() is None:
                peak = max(peak, banyan.rss_kib())
                try:
                    client.wait(0.05)
                except subprocess.TimeoutExpired:
                    pass
            assert client.returncode == 0
            size = client.stdout.read()
        assert received == [SIZE] and int(size) == SIZE
        print(f"RSS grew by {peak - before} KiB from {before} KiB over {SIZE / GIB} GiB each way")
        assert peak - before < 64 * 1024
    finally:
        server.shutdown()
        server.server_close()
