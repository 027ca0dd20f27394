"""The way out and the way in from large networks: PROXY headers, CONNECT, TCP, TLS by name; deny by default; connections that are counted and
taken in turn. Clients and servers are curl, redis-cli, openssl, nginx and Redis."""

import contextlib
import socket
import ssl
import subprocess
import threading
import time

import pytest
from conftest import Banyan, Nginx, Process, is_open, lease_port, wait_for
from proxy_header import header

VPCE = "vpce-08d2bf15fac5001c9"


@pytest.fixture
def origin(start):
    port = lease_port()
    start(Nginx, f'server {{ listen 127.0.0.1:{port}; location / {{ return 200 "$http_x_forwarded_for $request_uri\\n"; }} }}', port=port)
    return port


def talk(port, *parts, seconds=5):
    """Sends the parts one after the other; everything that comes back until the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        got = b""
        with contextlib.suppress(OSError):
            for part in parts:
                client.sendall(part)
            while data := client.recv(65536):
                got += data
        return got


GET = b"GET /x HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 6.6.6.6\r\nConnection: close\r\n\r\n"


def web(origin, ports, certificates, trusted="127.0.0.0/8", more=""):
    rules = f"""
version: 1
backends: {{b: {{urls: ["http://127.0.0.1:{origin}"]}}}}
cohorts: {{ends: {{key: [client.vpce], allow: ["client.vpce={VPCE}"]}}}}
routes:
  - {{id: limited, match: {{prefix: /limited}}, legacy: b, limit: {{key: client.vpce, rate: 1/h, burst: 2}}}}
  - {{id: side, match: {{prefix: /side}}, legacy: b, serverless: b, cohort: ends, stage: canary, share: 0%}}
  - {{id: r, match: {{prefix: /}}, legacy: b}}
"""
    plain, tls = ports
    settings = f"""version: 1
attribution_header: true
listeners:
  - {{name: plain, address: "127.0.0.1:{plain}", proxy_protocol: {{from: [{trusted}]}}}}
  - {{name: tls, address: "127.0.0.1:{tls}", proxy_protocol: {{from: [{trusted}]}}, tls: {{cert: {certificates}/server.pem, key: {certificates}/server.key}}, h2: true}}
{more}"""
    return rules, settings


def test_a_balancer_says_who_it_is_and_nobody_else_does(start, origin, certificates):
    ports = lease_port(), lease_port()
    banyan = start(Banyan, *web(origin, ports, certificates), listen=False)
    plain, tls = ports
    good = header(vpce=VPCE, padding=84)
    answer = talk(plain, good + GET)
    assert answer.startswith(b"HTTP/1.1 200") and b"10.64.3.7 /x" in answer and b"6.6.6.6" not in answer, answer
    line = banyan.log_lines(1)[-1]
    assert line["client.address"] == "10.64.3.7" and line["client.vpce"] == VPCE
    # However it is cut, and over IPv6.
    assert b"10.64.3.7 /x" in talk(plain, *[bytes([byte]) for byte in good], GET)
    assert b"2001:db8::7 /x" in talk(plain, header("2001:db8::7", destination="2001:db8::1") + GET)
    # Under TLS it comes before the handshake.
    context = ssl.create_default_context(cafile=certificates / "ca.pem")
    raw = socket.create_connection(("127.0.0.1", tls), timeout=5)
    raw.sendall(good)
    with context.wrap_socket(raw, server_hostname="localhost") as secure:
        secure.sendall(GET.replace(b"Host: h", b"Host: localhost"))
        assert b"10.64.3.7 /x" in secure.recv(65536) + secure.recv(65536)
    # The balancer's own look, and no endpoint without one.
    assert talk(plain, header(local=True) + GET).startswith(b"HTTP/1.1 200")
    assert talk(plain, header() + GET).startswith(b"HTTP/1.1 200") and "client.vpce" not in banyan.log_lines(5)[-1]
    # A second header is payload.
    assert talk(plain, good + good + GET).startswith(b"HTTP/1.1 400")
    # Nothing, text, half of one, a wrong sum, one that is too long: closed without a word.
    wrong = bytearray(good)
    wrong[20] ^= 1
    for bad in (GET, b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n" + GET, bytes(wrong) + GET, header(padding=4000) + GET, header(vpce="vpce-\"x") + GET):
        assert talk(plain, bad) == b"", bad[:40]
    banyan.counts(5, "banyan_refused_total", cause="proxy_protocol_malformed")
    assert banyan.metric("banyan_endpoint_connections_total", endpoint=VPCE) >= 4 and banyan.metric("banyan_endpoint_connections_total", endpoint="none") >= 1
    begun = time.monotonic()
    assert talk(plain, good[:30], seconds=8) == b"" and 2 < time.monotonic() - begun < 5
    # As a key of limits and of conditions.
    def status(path, vpce):
        return talk(plain, header(vpce=vpce) + GET.replace(b"/x", path)).split(b" ")[1]

    assert [status(b"/limited", VPCE) for _ in range(3)] == [b"200", b"200", b"429"] and status(b"/limited", "vpce-2") == b"200"
    assert b"side=serverless" in talk(plain, header(vpce=VPCE) + GET.replace(b"/x", b"/side"))
    assert b"side=legacy" in talk(plain, header(vpce="vpce-2") + GET.replace(b"/x", b"/side"))


def test_who_is_no_balancer_is_not_believed(start, origin, certificates):
    ports = lease_port(), lease_port()
    banyan = start(Banyan, *web(origin, ports, certificates, trusted="10.0.0.0/8"), listen=False)
    assert talk(ports[0], header(vpce=VPCE) + GET) == b"" and talk(ports[0], GET) == b""
    banyan.counts(2, "banyan_refused_total", cause="proxy_protocol_untrusted")


def egress(start, rules, listeners, more=""):
    text = "version: 1\negress:\n" + "".join(f"  - {rule}\n" for rule in rules)
    settings = "version: 1\nlisteners:\n" + "".join(f"  - {listener}\n" for listener in listeners) + more
    return start(Banyan, text, settings, listen=False)


def test_connect_reaches_what_is_listed_and_nothing_else(start, origin):
    port = lease_port()
    rules = [
        f"{{id: core, listener: out, callers: {{cidr: [127.0.0.0/8]}}, to: {{host: 127.0.0.1, ports: [{origin}]}}}}",
        "{id: names, listener: out, callers: {cidr: [127.0.0.0/8]}, to: {domains: [localhost, \"*.localhost\"], ports: [80]}}",
        "{id: others, listener: out, callers: {cidr: [10.0.0.0/8]}, to: {host: 127.0.0.2, ports: [80]}}",
    ]
    banyan = egress(start, rules, [f'{{name: out, address: "127.0.0.1:{port}", mode: connect}}'])

    def through(url):
        return subprocess.run(["curl", "-sS", "-p", "-x", f"http://127.0.0.1:{port}", "-o", "-", "-w", "%{http_connect}", "--max-time", "8", url], capture_output=True, text=True)

    good = through(f"http://127.0.0.1:{origin}/hello")
    assert good.returncode == 0 and "/hello" in good.stdout, good
    for url, cause in [
        (f"http://127.0.0.1:{origin + 1}/", "egress_port"),
        ("http://127.0.0.2:80/", "egress_destination"),
        ("http://169.254.169.254:80/latest/meta-data/", "egress_destination"),
        ("http://example.com:80/", "egress_destination"),
        # A name of the list that leads to this machine.
        ("http://localhost:80/", "egress_address"),
        ("http://a.localhost:80/", "egress_address"),
    ]:
        before = banyan.metric("banyan_refused_total", cause=cause) or 0
        refused = through(url)
        assert refused.returncode != 0 and refused.stdout.endswith("403"), (url, refused)
        banyan.counts(before + 1, "banyan_refused_total", cause=cause)
        line = banyan.log_lines(where=lambda line, cause=cause: line.get("cause") == cause)[-1]
        assert line["listener"] == "out" and line["client.address"] == "127.0.0.1" and line["http.response.status_code"] == 403
    line = next(it for it in banyan.log_lines(1) if it.get("rule") == "core")
    assert line["bytes.up"] > 50 and line["bytes.down"] > 100 and line["server.address"] == "127.0.0.1" and "cause" not in line
    # Not an ordinary proxy, and strict about what it is asked.
    assert talk(port, b"GET http://127.0.0.1/ HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 405")
    for bad in (b"CONNECT 127.0.0.1 HTTP/1.1\r\n\r\n", b"CONNECT 127.0.0.1:0 HTTP/1.1\r\n\r\n", b"CONNECT a:+80 HTTP/1.1\r\n\r\n", b"CONNECT a b:80 HTTP/1.1\r\n\r\n", b"CONNECT a@b:80 HTTP/1.1\r\n\r\n", b"CONNECT a:80 HTTP/1.1\r\nHost: b:80\r\n\r\n", b"CONNECT a:80 HTTP/1.1\n\nHost: b\r\n\r\n", b"CONNECT a:80 HTTP/1.1\r\nX: y\nZ: w\r\n\r\n"):
        assert talk(port, bad).startswith(b"HTTP/1.1 400"), bad
    # An edit of the rules is in force for the next connection.
    banyan.write_rules(f"version: 1\negress: [{{id: core, listener: out, callers: {{cidr: [10.0.0.0/8]}}, to: {{host: 127.0.0.1, ports: [{origin}]}}}}]\n")
    wait_for("the new rules", lambda: through(f"http://127.0.0.1:{origin}/").stdout.endswith("403"))
    assert banyan.metric("banyan_egress_connections", rule="core") == 0


def test_callers_by_certificate_and_endpoint(start, origin, certificates):
    secure, plain = lease_port(), lease_port()
    rules = [
        f"{{id: cert, listener: secure, callers: {{client_cert: [CN=client]}}, to: {{host: 127.0.0.1, ports: [{origin}]}}}}",
        f"{{id: end, listener: plain, callers: {{vpce: [{VPCE}], cidr: [10.64.0.0/16]}}, to: {{host: 127.0.0.1, ports: [{origin}]}}}}",
    ]
    tls = f"tls: {{cert: {certificates}/server.pem, key: {certificates}/server.key, client_ca: {certificates}/ca.pem}}"
    banyan = egress(start, rules, [f'{{name: secure, address: "127.0.0.1:{secure}", mode: connect, {tls}}}', f'{{name: plain, address: "127.0.0.1:{plain}", mode: connect, proxy_protocol: {{from: [127.0.0.1/32]}}}}'])
    base = ["curl", "-sS", "-p", "-x", f"https://localhost:{secure}", "--proxy-cacert", certificates / "ca.pem", "--max-time", "8", f"http://127.0.0.1:{origin}/in"]
    good = subprocess.run([*base, "--proxy-cert", certificates / "client.pem", "--proxy-key", certificates / "client.key"], capture_output=True, text=True)
    assert good.returncode == 0 and "/in" in good.stdout, good
    assert subprocess.run(base, capture_output=True).returncode != 0, "no certificate, no handshake"
    other = subprocess.run([*base, "--proxy-cert", certificates / "server.pem", "--proxy-key", certificates / "server.key"], capture_output=True, text=True)
    assert other.returncode != 0, "another's certificate"
    ask = f"CONNECT 127.0.0.1:{origin} HTTP/1.1\r\n\r\nGET /end HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode()
    assert b"/end" in talk(plain, header("10.64.9.9", vpce=VPCE) + ask)
    assert talk(plain, header("10.65.9.9", vpce=VPCE) + ask).startswith(b"HTTP/1.1 403")
    assert talk(plain, header("10.64.9.9", vpce="vpce-other") + ask).startswith(b"HTTP/1.1 403")
    assert talk(plain, header("10.64.9.9") + ask).startswith(b"HTTP/1.1 403")
    assert talk(plain, header(local=True)) == b"", "the balancer's own look"
    banyan.counts(4, "banyan_refused_total", cause="egress_caller")


class Redis(Process):
    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.port = lease_port()
        super().__init__(["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", folder], folder, folder / "log")
        wait_for("redis", lambda: is_open(self.port))


class Greets:
    """Speaks first, as queues and databases do, and then says back what it hears; counts who is connected."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port, self.open, self.most, self.all = self.socket.getsockname()[1], 0, 0, 0
        self.sources, self.lock = set(), threading.Lock()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            client, peer = self.socket.accept()
            threading.Thread(target=self._serve, args=(client, peer), daemon=True).start()

    def _serve(self, client, peer):
        with self.lock:
            self.open, self.all = self.open + 1, self.all + 1
            self.most = max(self.most, self.open)
            self.sources.add(peer[0])
        with contextlib.suppress(OSError):
            client.sendall(b"TSH welcome\n")
            while data := client.recv(4096):
                client.sendall(data)
        with self.lock:
            self.open -= 1
        client.close()


def test_tcp_goes_where_its_rule_leads_whoever_speaks_first(start):
    redis, queue, ports = start(Redis), Greets(), [lease_port() for _ in range(3)]
    me = "callers: {cidr: [127.0.0.0/8]}"
    rules = [f"{{id: cache, listener: cache, {me}, to: {{host: 127.0.0.1, ports: [{redis.port}]}}}}", f"{{id: queue, listener: queue, {me}, to: {{host: 127.0.0.1, ports: [{queue.port}]}}, via: {{bind: [127.0.0.5, 127.0.0.6]}}}}", f"{{id: others, listener: others, callers: {{cidr: [10.0.0.0/8]}}, to: {{host: 127.0.0.1, ports: [{redis.port}]}}}}"]
    banyan = egress(start, rules, [f'{{name: {name}, address: "127.0.0.1:{port}", mode: tcp}}' for name, port in zip(("cache", "queue", "others"), ports, strict=True)])
    cli = lambda *args: subprocess.run(["redis-cli", "-p", str(ports[0]), *args], capture_output=True, text=True, timeout=10).stdout.strip()  # noqa: E731
    assert cli("set", "k", "v") == "OK" and cli("get", "k") == "v"
    big = "x" * 5_000_000
    assert subprocess.run(["redis-cli", "-p", str(ports[0]), "-x", "set", "big"], input=big, capture_output=True, text=True, timeout=20).stdout.strip() == "OK"
    assert cli("strlen", "big") == str(len(big))
    for _ in range(4):
        with socket.create_connection(("127.0.0.1", ports[1]), timeout=5) as client:
            assert client.recv(100) == b"TSH welcome\n"
            client.sendall(b"ping")
            assert client.recv(100) == b"ping"
    assert queue.sources == {"127.0.0.5", "127.0.0.6"}, "from the addresses of the rule, by turns"
    with pytest.raises(ConnectionResetError), socket.create_connection(("127.0.0.1", ports[2]), timeout=5) as client:
        client.recv(10)
    banyan.counts(1, "banyan_refused_total", cause="egress_caller")
    assert banyan.metric("banyan_egress_bytes_total", rule="cache", direction="up") > 5_000_000


def test_tls_goes_by_its_name_unopened(start, certificates):
    inner, ports = lease_port(), [lease_port(), lease_port()]
    start(Nginx, f"server {{ listen 127.0.0.1:{inner} ssl; ssl_certificate {certificates}/server.pem; ssl_certificate_key {certificates}/server.key; location / {{ return 200 $ssl_server_name; }} }}", port=inner)
    me = "callers: {cidr: [127.0.0.0/8]}"
    # The test has no name server of its own: the one name that leads somewhere is this machine's, as a host of our own networks.
    rules = [f"{{id: site, listener: sni, {me}, to: {{host: 127.0.0.1, ports: [{inner}]}}}}", f"{{id: strict, listener: out, {me}, to: {{host: 127.0.0.1, ports: [{inner}]}}, sni: required}}".replace("}, sni: required}", ", sni: required}}")]
    banyan = egress(start, rules, [f'{{name: sni, address: "127.0.0.1:{ports[0]}", mode: tls_passthrough}}', f'{{name: out, address: "127.0.0.1:{ports[1]}", mode: connect}}'])

    def names(name):
        """What becomes of a handshake for that name."""
        out = subprocess.run(["curl", "-sS", "--cacert", certificates / "ca.pem", "--resolve", f"{name}:{ports[0]}:127.0.0.1", "--max-time", "8", f"https://{name}:{ports[0]}/"], capture_output=True, text=True)
        return out.returncode, out.stdout

    # A name that no rule has, no name at all, and no TLS at all.
    assert names("shop.example.com")[0] != 0
    banyan.counts(1, "banyan_refused_total", cause="egress_destination")
    assert names("127.0.0.1")[0] != 0
    banyan.counts(1, "banyan_refused_total", cause="egress_no_name")
    assert talk(ports[0], b"GET / HTTP/1.1\r\n\r\n") == b""
    banyan.counts(1, "banyan_refused_total", cause="egress_not_tls")
    # Through CONNECT: what goes through must be TLS for the name that was asked for.
    tunnel = f"CONNECT 127.0.0.1:{inner} HTTP/1.1\r\n\r\n".encode()
    assert talk(ports[1], tunnel, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n") == b"HTTP/1.1 200 OK\r\n\r\n"
    banyan.counts(2, "banyan_refused_total", cause="egress_not_tls")
    out = subprocess.run(["curl", "-sS", "-p", "-x", f"http://127.0.0.1:{ports[1]}", "--cacert", certificates / "ca.pem", "--connect-to", f"shop.example.com:443:127.0.0.1:{inner}", "--max-time", "8", "https://shop.example.com/"], capture_output=True, text=True)
    assert out.returncode != 0
    banyan.counts(1, "banyan_refused_total", cause="egress_sni")


def test_connections_are_counted_and_taken_in_turn(start):
    queue, port = Greets(), lease_port()
    rule = f"{{id: core, listener: in, callers: {{cidr: [127.0.0.0/8, 10.64.0.0/16]}}, to: {{host: 127.0.0.1, ports: [{queue.port}]}}, via: {{connections: {{max: 5, queue: 400, queue_wait: 20s}}}}}}"
    banyan = egress(start, [rule], [f'{{name: in, address: "127.0.0.1:{port}", mode: tcp, proxy_protocol: {{from: [127.0.0.0/8]}}}}'])
    served, failed, lock = [], [], threading.Lock()

    def call(number):
        caller = f"10.64.{number % 7}.1"
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                client.sendall(header(caller))
                assert client.recv(100) == b"TSH welcome\n"
                client.sendall(b"x" * 100)
                assert client.recv(1000)
            with lock:
                served.append(number)
        except (OSError, AssertionError) as error:
            failed.append(repr(error))

    threads = [threading.Thread(target=call, args=(n,)) for n in range(300)]
    [it.start() for it in threads]
    [it.join() for it in threads]
    assert failed == [] and len(served) == 300 and queue.most <= 5, (failed[:3], len(served), queue.most)
    assert banyan.metric("banyan_egress_queue_seconds_count", rule="core") == 300
    wait_for("all to be closed", lambda: banyan.metric("banyan_egress_connections", rule="core") == 0 and banyan.metric("banyan_egress_queued", rule="core") == 0)
    # A queue that is full, and a turn that does not come, have their reasons.
    before = banyan.revision()
    banyan.write_rules("version: 1\negress:\n  - " + rule.replace("max: 5, queue: 400, queue_wait: 20s", "max: 1, queue: 1, queue_wait: 300ms") + "\n")
    wait_for("the new rules", lambda: banyan.revision() != before)
    holder = socket.create_connection(("127.0.0.1", port), timeout=5)
    holder.sendall(header("10.64.0.1"))
    assert holder.recv(100)

    def refused():
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(header("10.64.0.2"))
            return client.recv(100)
        return b""

    wait_for("a turn that does not come", lambda: refused() == b"" and (banyan.metric("banyan_refused_total", cause="egress_queue_timeout") or 0) >= 1)
    results = []
    threads = [threading.Thread(target=lambda: results.append(refused())) for _ in range(6)]
    [it.start() for it in threads]
    [it.join() for it in threads]
    assert results == [b""] * 6 and banyan.metric("banyan_refused_total", cause="egress_queue_full") >= 4
    holder.close()
    wait_for("room", lambda: refused() == b"TSH welcome\n")


def test_listeners_and_rules_are_checked(start):
    for settings, why in [("mode: tcp, tls: {cert: a, key: b}", "expected no tls"), ("mode: connect, h2c: true", "h2 and h2c"), ("proxy_protocol: {from: []}", "from is empty")]:
        banyan = start(Banyan, "version: 1\n", f"version: 1\nlisteners: [{{name: x, address: '127.0.0.1:0', {settings}}}]\n", listen=False, wait=False)
        banyan.popen.wait(20)
        assert banyan.popen.returncode == 64 and why in banyan.text(), (settings, banyan.text())
    rule = "{id: e, listener: LISTENER, callers: {cidr: [10.0.0.0/8]}, to: {TO}}"
    keyed = "version: 1\negress: [{id: e, listener: out, callers: {plan: [p]}, to: {host: a, ports: [1]}}]\n"
    for mode, code in (("connect", "egress_plan"), ("tcp", "egress_listener"), ("http", "egress_listener")):
        banyan = start(Banyan, keyed, f"version: 1\nlisteners: [{{name: out, address: '127.0.0.1:{lease_port()}', mode: {mode}}}]\n", listen=False, wait=False)
        banyan.popen.wait(20)
        assert banyan.popen.returncode == 1 and code in banyan.text() + banyan.access_path.read_text(), mode
    for listener, to, code in [("nowhere", "host: a, ports: [1]", "listener_unknown"), ("tcp", "domains: [a.test], ports: [1]", "egress_listener"), ("tcp", "host: a, ports: [1, 2]", "egress_listener"), ("web", "host: a, ports: [1], sni: required", "egress_listener")]:
        text = "version: 1\negress: [" + rule.replace("LISTENER", listener).replace("TO", to) + "]\n"
        ports = lease_port(), lease_port()
        banyan = start(Banyan, text, f"version: 1\nlisteners: [{{name: web, address: '127.0.0.1:{ports[0]}'}}, {{name: tcp, address: '127.0.0.1:{ports[1]}', mode: tcp}}]\n", listen=False, wait=False)
        banyan.popen.wait(20)
        assert banyan.popen.returncode == 1 and code in banyan.text() + banyan.access_path.read_text(), (listener, banyan.text())


