"""Requests whose body is held whole: what goes wrong between us and the API, and between us and the client, by servers that answer
byte for byte what a test says."""

import base64
import json
import socket
import subprocess
import threading
import time

import pytest
from conftest import Banyan, Nginx, lease_port, wait_for
from emulators import REGION, ROOT_KEY, environment, send
from test_protocols import Origin

ENV = environment(ROOT_KEY)
TEXT = [("Content-Type", "text/plain")]


def calling(port, extra="", route="", settings=""):
    rules = (f'version: 1\nbackends:\n  f: {{lambda: {{function: f, region: {REGION}, endpoint: "http://127.0.0.1:{port}"{extra}}}}}\n'
             f"routes: [{{id: f, match: {{prefix: /}}, serverless: f, stage: serverless{route}}}]\n")
    return {"rules": rules, "settings": "version: 1\nattribution_header: true\n" + settings, "env": ENV}


def drain(connection, data):
    """Reads what is left of the request."""
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    while len(body) < length:
        body += connection.recv(65536)
    return body


def answers(payload, headers=b""):
    def answer(connection, data):
        drain(connection, data)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b" % (headers, len(payload), payload))

    return answer


def drips(connection, data):
    """An answer that never ends, a byte now and then."""
    drain(connection, data)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    try:
        # What a stream would take for the length of its first frame, too.
        for byte in b"\0\0\1\0" + b" " * 100:
            connection.sendall(bytes([byte]))
            time.sleep(0.2)
    except OSError:
        pass


@pytest.mark.parametrize("tls", [False, True])
def test_signed_bodies_go_over_http2_as_well(start, certificates, tls):
    port = lease_port()
    secure = f"ssl_certificate {certificates}/server.pem; ssl_certificate_key {certificates}/server.key;" if tls else ""
    echo = f'listen 127.0.0.1:{port} {"ssl " if tls else ""}http2; {secure} client_body_buffer_size 1m; location / {{ return 200 "$server_protocol $http_host $content_length $request_uri"; }}'
    start(Nginx, f"server {{ {echo} }}", port=port)
    scheme, more = ("https", f"tls: {{ca: {certificates}/ca.pem, server_name: localhost}}") if tls else ("http", "protocol: h2c")
    banyan = start(Banyan, f"""
version: 1
backends: {{s: {{urls: ["{scheme}://127.0.0.1:{port}"], host: shop.example.com, {more}, sign: {{service: s3, region: {REGION}}}}}}}
routes: [{{id: s, match: {{prefix: /}}, serverless: s, stage: serverless}}]
""", env=ENV)
    for size in (0, 10, 70_000, 200_000):
        answer = send(banyan.port, "POST", "/a%20b?x=1", TEXT, b"x" * size)
        assert (answer.status, answer.body) == (200, f"HTTP/2.0 shop.example.com {size} /a%20b?x=1".encode()), answer
    answer = send(banyan.port, "POST", "/c", TEXT + [("Transfer-Encoding", "chunked")], iter([b"a" * 40_000] * 3))
    assert answer.body == b"HTTP/2.0 shop.example.com 120000 /c"
    assert send(banyan.port, "GET", "/g").body == b"HTTP/2.0 shop.example.com  /g"


def test_a_report_line_that_lies_harms_nothing(start):
    lie = base64.b64encode(b"REPORT RequestId: 1\tBilled Duration: NaN ms\tMemory Size: inf MB\tMax Memory Used: 1e300 MB")
    origin = Origin(answers(b'{"statusCode":200}', b"X-Amz-Log-Result: %b\r\n" % lie))
    banyan = start(Banyan, **calling(origin.port, ", log_tail: true"))
    for _ in range(2):
        assert send(banyan.port, "GET", "/").status == 200
    assert "panicked" not in banyan.text() and banyan.cli("show", "f").returncode == 0


def test_path_parameters_are_of_the_path_however_the_target_is_written(start):
    events = []

    def answer(connection, data):
        events.append(drain(connection, data))
        answers(b'{"statusCode":200}')(connection, b"\r\n\r\n")

    origin = Origin(answer)
    given = calling(origin.port)
    given["rules"] = given["rules"].replace("{prefix: /}", '{path: "/t/{id}/event"}')
    banyan = start(Banyan, **given)
    with socket.create_connection(("127.0.0.1", banyan.port), timeout=10) as s:
        s.sendall(b"GET http://1337/t/42/event HTTP/1.1\r\nHost: 1337\r\nConnection: close\r\n\r\n")
        assert b" 200 " in s.recv(65536)
    event = json.loads(events[0])
    assert event["pathParameters"] == {"id": "42"} and event["rawPath"] == "/t/42/event"


@pytest.mark.parametrize("kind", ["whole", "stream", "signed"])
def test_an_answer_that_drips_ends_with_the_total_time(start, kind):
    origin = Origin(drips)
    if kind == "signed":
        given = calling(0)
        given["rules"] = (f'version: 1\nbackends: {{s: {{urls: ["http://127.0.0.1:{origin.port}"], sign: {{service: s3, region: {REGION}}}}}}}\n'
                          "routes: [{id: f, match: {prefix: /}, serverless: s, stage: serverless, timeouts: {first_byte: 5s, total: 1s}}]\n")
    else:
        given = calling(origin.port, ", stream: true" if kind == "stream" else "", ", timeouts: {first_byte: 5s, total: 1s}")
    banyan = start(Banyan, **given)
    begun = time.monotonic()
    if kind == "signed":
        with pytest.raises(Exception, match="IncompleteRead|reset|closed"):
            send(banyan.port, "POST", "/", TEXT, b"x")
    else:
        answer = send(banyan.port, "POST", "/", TEXT, b"x")
        assert answer.status == 504 and b"backend timeout" in answer.body
    # One second was allowed; five would be the time to the first byte.
    assert time.monotonic() - begun < 4
    wait_for("nothing in flight", lambda: banyan.metric("banyan_requests_in_flight") == 0)
    banyan.counts(0, "banyan_buffered_bytes")


def test_a_client_that_leaves_frees_what_was_held_for_it(start):
    origin = Origin(drips)
    banyan = start(Banyan, **calling(origin.port))
    with socket.create_connection(("127.0.0.1", banyan.port), timeout=10) as s:
        s.sendall(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000)
        wait_for("the call", lambda: (banyan.metric("banyan_buffered_bytes") or 0) > 1000)
    wait_for("nothing in flight", lambda: banyan.metric("banyan_requests_in_flight") == 0, seconds=5)
    banyan.counts(0, "banyan_buffered_bytes")
    assert banyan.log_lines(1)[0]["http.response.status_code"] == 499


def test_an_early_refusal_of_the_backend_reaches_the_client(start):
    def refuses(connection, data):
        connection.sendall(b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge")
        connection.shutdown(socket.SHUT_WR)
        # Closing with unread bytes would reset the connection, and the refusal with it; servers linger.
        while connection.recv(1 << 20):
            pass

    origin = Origin(refuses)
    banyan = start(Banyan, f"""
version: 1
backends: {{s: {{urls: ["http://127.0.0.1:{origin.port}"], sign: {{service: s3, region: {REGION}}}}}}}
routes: [{{id: s, match: {{prefix: /}}, serverless: s, stage: serverless}}]
""", env=ENV)
    answer = send(banyan.port, "POST", "/", TEXT, b"x" * 3_900_000)
    assert (answer.status, answer.body) == (413, b"large")


def test_bodies_held_stay_within_their_limit(start):
    release = threading.Event()

    def waits(connection, data):
        drain(connection, data)
        release.wait(20)
        answers(b'{"statusCode":200}')(connection, b"\r\n\r\n")

    origin = Origin(waits)
    banyan = start(Banyan, **calling(origin.port, settings="limits: {buffered: 4MiB}\n"))
    statuses, peak = [], [0]

    def put():
        statuses.append(send(banyan.port, "PUT", "/", [("Content-Type", "image/png")], b"\xff" * 900_000).status)

    threads = [threading.Thread(target=put) for _ in range(6)]
    for thread in threads:
        thread.start()
    # A body of 0.9 MB and its event of 1.2 MB: one fits beside another's body, not all six.
    wait_for("a refusal", lambda: peak.__setitem__(0, max(peak[0], banyan.metric("banyan_buffered_bytes") or 0)) or 503 in statuses)
    release.set()
    for thread in threads:
        thread.join(30)
    # Each may have read one piece of 64 KiB more before it is refused.
    assert set(statuses) == {200, 503} and peak[0] <= (4 << 20) + 6 * (64 << 10), (statuses, peak)
    banyan.counts(0, "banyan_buffered_bytes")


def test_odd_answers_are_answered_for(start):
    cases = [
        (b'{"statusCode":205,"body":"no"}', 205, b""),
        (json.dumps({"statusCode": 200, "headers": {f"x-{n}": "1" for n in range(25_000)}}).encode(), 502, None),
        (b"x" * (7 << 20), 502, None),
    ]
    for payload, status, body in cases:
        origin = Origin(answers(payload))
        banyan = start(Banyan, **calling(origin.port))
        answer = send(banyan.port, "GET", "/")
        assert answer.status == status and (body is None or answer.body == body), (payload[:50], answer)
        if len(payload) > 6 << 20:
            banyan.counts(1, "banyan_lambda_errors_total", code="function_answer_too_large")
        elif status == 502:
            banyan.counts(1, "banyan_lambda_errors_total", code="malformed_function_answer")


def test_what_a_client_sends_cannot_be_signed_for_it(start):
    origin = Origin(lambda connection, data: connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
    banyan = start(Banyan, f"""
version: 1
backends: {{s: {{urls: ["http://127.0.0.1:{origin.port}"], headers: {{X-Amz-Acl: private}}, sign: {{service: s3, region: {REGION}}}}}}}
routes: [{{id: s, match: {{prefix: /}}, serverless: s, stage: serverless}}]
""", env=ENV)
    assert send(banyan.port, "GET", "/", [("X-Amz-Copy-Source", "/other/secret"), ("X-Amz-Acl", "public")]).status == 200
    seen = origin.seen[0].lower()
    assert b"copy-source" not in seen and b"x-amz-acl: private" in seen and b"public" not in seen
    with socket.create_connection(("127.0.0.1", banyan.port), timeout=10) as s:
        s.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nContent-Type: text/\xe9\r\nConnection: close\r\n\r\n")
        assert b" 400 " in s.recv(65536).split(b"\r\n")[0]
    out = subprocess.run(["curl", "-sS", "-i", "--http1.0", "-H", "Expect: 100-continue", "-d", "x", banyan.url + "/"], capture_output=True, text=True, timeout=20).stdout
    assert "100 Continue" not in out and "200" in out.splitlines()[0]
