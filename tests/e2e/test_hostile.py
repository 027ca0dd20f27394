"""Requests and files that mean harm, or were cut off half-way."""

import json
import socket
import subprocess
import time

from conftest import BANYAN, Airline, Banyan, Nginx, curl, header, lease_port, wait_for
from test_protocols import Origin, one_backend
from test_reload import serves, simple


def raw(port, request, seconds=10):
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as s:
        s.sendall(request)
        data = b""
        while chunk := s.recv(65536):
            data += chunk
        return data


def test_saying_upgrade_switches_no_limit_off(start):
    airline = start(Airline)
    rules = f"""
version: 1
backends: {{l: {{urls: ["http://127.0.0.1:{airline.legacy}"]}}}}
routes: [{{id: r, match: {{prefix: /}}, legacy: l, timeouts: {{first_byte: 400ms, total: 3s}}}}]
"""
    banyan = start(Banyan, rules, settings="version: 1\nlimits: {body: 1MiB}\n")
    airline.faults("legacy", {"prefix": "/slow", "delay_ms": 5000})
    big = banyan.folder / "big"
    big.write_bytes(b"x" * 3_000_000)
    for upgrade in (["-H", "Upgrade: foo"], ["-H", "Upgrade: websocket"], ["-H", "Upgrade: h2c", "-H", "Connection: Upgrade"]):
        assert curl(*upgrade, banyan.url + "/slow")[0] == 504, upgrade
        assert curl(*upgrade, "-H", "Expect:", "-H", "Transfer-Encoding: chunked", "--data-binary", f"@{big}", banyan.url + "/upload")[0] == 413, upgrade
    seen = dict(json.loads(curl("-H", "Upgrade: websocket", banyan.url + "/whoami")[2])["headers"])
    assert "upgrade" not in seen and "connection" not in seen


def test_a_tunnel_nobody_asked_for_is_a_broken_answer(start):
    def switch(connection, _):
        connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nevil")

    origin = Origin(switch)
    banyan = start(Banyan, one_backend(f"http://127.0.0.1:{origin.port}"))
    assert b" 502 " in raw(banyan.port, b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").split(b"\r\n")[0]


def test_targets_hosts_and_framings_that_servers_read_differently_are_400(start):
    origin = Origin(lambda connection, _: connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Secret, close\r\nX-Secret: 1\r\n\r\nok"))
    banyan = start(Banyan, one_backend(f"http://127.0.0.1:{origin.port}"))

    def status(line, host=b"h", more=b""):
        return int(raw(banyan.port, line + b"\r\nHost: " + host + b"\r\nConnection: close\r\n" + more + b"\r\n").split()[1])

    # Bytes that no target may hold are percent-encoded by the framework before anyone sees them (SECURITY.md).
    for line in [b"GET /#/secret HTTP/1.1", b"GET /a?b#c HTTP/1.1", b"GET secret HTTP/1.1", b"GET h:80 HTTP/1.1", b'GET /a"b HTTP/1.1']:
        assert status(line) == 400, line
    for host in [b"a/b", b"a b", b"<x>", b"a?b", b"a#b", b"a\\b", b"a,b", b"a:xx", b"a:99999", b"[::1", b"..", b"h:evil/x"]:
        assert status(b"GET / HTTP/1.1", host) == 400, host
    assert status(b"POST / HTTP/1.1", more=b"Content-Length: 5, 5\r\n") == 400
    assert status(b"POST / HTTP/1.1", more=b"Transfer-Encoding: gzip, chunked\r\n") == 400
    assert origin.seen == []
    assert status(b"GET /a?b=%20%22 HTTP/1.1", b"H.Example:8080") == 200
    answer = raw(banyan.port, b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert b"x-secret" not in answer.lower(), "a header of the hop to the backend stays there"


def test_requests_sent_together_are_all_answered(start):
    a = lease_port()
    start(Nginx, f'server {{ listen 127.0.0.1:{a}; location / {{ return 200 "$request_uri\\n"; }} }}', a=a)
    banyan = start(Banyan, one_backend(f"http://127.0.0.1:{a}"))
    requests = b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n%s\r\n" % (n, b"Connection: close\r\n" if n == 4 else b"") for n in range(5))
    answer = raw(banyan.port, requests)
    assert answer.count(b"HTTP/1.1 200") == 5 and all(b"/%d\n" % n in answer for n in range(5)), answer


def test_cookie_pieces_of_http2_are_one_line_for_http1(start):
    airline = start(Airline)
    port = lease_port()
    settings = f'version: 1\nlisteners: [{{name: h2, address: "127.0.0.1:{port}", h2c: true}}]\n'
    start(Banyan, one_backend(f"http://127.0.0.1:{airline.legacy}"), settings=settings, listen=False)
    out = subprocess.run(["curl", "-sS", "--http2-prior-knowledge", "-H", "Cookie: a=1", "-H", "Cookie: b=2", f"http://127.0.0.1:{port}/whoami"], capture_output=True, timeout=20)
    cookies = [value for name, value in json.loads(out.stdout)["headers"] if name == "cookie"]
    assert cookies == ["a=1; b=2"]


def test_a_preflight_is_answered_by_the_route_of_the_method_it_asks_for(start):
    rules = """
version: 1
backends: {b: {urls: ["http://127.0.0.1:1"]}}
routes: [{id: g, match: {path: /g, methods: [GET]}, legacy: b, cors: {origins: ["https://a.test"], methods: [GET]}}]
"""
    banyan = start(Banyan, rules)
    ask = ["-X", "OPTIONS", "-H", "Origin: https://a.test", banyan.url + "/g"]
    status, headers, _ = curl("-H", "Access-Control-Request-Method: GET", *ask)
    assert status == 204 and header(headers, "access-control-allow-origin") == "https://a.test"
    assert curl("-H", "Access-Control-Request-Method: PUT", *ask)[0] == 404
    assert curl(*ask)[0] == 404


def test_a_file_that_is_still_being_written_is_not_read(start):
    for watch in ["notify", "poll"]:
        banyan = start(Banyan, simple(0, "one"), settings=f"version: 1\nrules: {{watch: {watch}}}\n")
        before = banyan.text().count("rules accepted")
        # Valid YAML after every line: the last route takes what the others do not.
        with open(banyan.rules / "rules.yaml", "w") as f:
            f.write("version: 1\nroutes:\n")
            for n in range(40):
                f.write(f"  - {{id: r{n}, match: {{path: /r{n}}}, respond: {{status: 200, body: r}}}}\n")
                f.flush()
                time.sleep(0.05)  # the writer's own pace, not a wait for anything
            f.write('  - {id: rest, match: {prefix: /}, respond: {status: 200, body: "two"}}\n')
        serves(banyan, "two")
        # It is said after it is in force.
        wait_for("the log", lambda: banyan.text().count("rules accepted") > before)
        text = banyan.text()
        assert text.count("rules accepted") == before + 1 and "refused" not in text, text


def test_a_link_that_leads_nowhere_is_refused_and_not_left_out(start):
    banyan = start(Banyan, simple(0, "one"))
    (banyan.rules / "more.yaml").symlink_to("nowhere.yaml")
    wait_for("the refusal", lambda: banyan.metric("banyan_config_last_reload_successful") == 0)
    assert "more.yaml" in banyan.text()
    serves(banyan, "one")
    out = subprocess.run([BANYAN, "check", banyan.rules], capture_output=True, text=True, timeout=20)
    assert out.returncode == 1 and "rules_unreadable" in out.stdout


def test_a_closed_pipe_is_no_panic(start, tmp_path):
    routes = "".join(f"  - {{id: r{n}, match: {{path: /r{n}}}, respond: {{status: 200}}}}\n" for n in range(5000))
    (tmp_path / "r.yaml").write_text(f"version: 1\nroutes:\n{routes}")
    out = subprocess.run(f"{BANYAN} explain --rules {tmp_path} GET http://h/x | head -c 100", shell=True, capture_output=True, text=True, timeout=30)
    assert "panicked" not in out.stderr and len(out.stdout) == 100
