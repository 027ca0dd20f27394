"""Clients that are slow, and clients that are many: each ends at its limit, and others do not notice."""

import contextlib
import http.client
import socket
import threading
import time

import pytest
from conftest import Banyan, Nginx, curl, header, lease_port, wait_for
from emulators import send


@pytest.fixture
def origin(start):
    port = lease_port()
    # What is proxied on is read to its end first, as an application does it.
    inner = lease_port()
    servers = f"server {{ listen 127.0.0.1:{inner}; location / {{ return 200 ok; }} }} server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{inner}; }} }}"
    start(Nginx, servers, port=port, inner=inner)
    return port


def proxy(start, port, limits):
    rules = f'version: 1\ndefaults: {{legacy: b}}\nbackends: {{b: {{urls: ["http://127.0.0.1:{port}"]}}}}\n'
    return start(Banyan, rules, f"version: 1\nlimits: {{{limits}}}\n")


def closed_after(connection, begun, seconds):
    """How long the other side kept it."""
    connection.settimeout(seconds)
    try:
        while connection.recv(4096):
            pass
    except (ConnectionError, TimeoutError):
        pass
    return time.monotonic() - begun


def test_a_head_that_does_not_end_is_given_up_at_its_deadline(start, origin):
    banyan = proxy(start, origin, "header_time: 2s, idle: 4s")
    took = []

    def trickle(first):
        connection = socket.create_connection(("127.0.0.1", banyan.port))
        begun = time.monotonic()
        connection.sendall(first)
        stop = threading.Event()

        def drip():
            while not stop.wait(0.2):
                try:
                    connection.sendall(b"X")
                except OSError:
                    return

        if first:
            threading.Thread(target=drip, daemon=True).start()
        took.append(closed_after(connection, begun, 15))
        stop.set()
        connection.close()

    clients = [threading.Thread(target=trickle, args=(first,)) for first in [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "] * 20]
    [it.start() for it in clients]
    canary = [send(banyan.port, "GET", "/").status for _ in range(50)]
    [it.join() for it in clients]
    assert canary == [200] * 50 and all(1.9 <= it < 4 for it in took), took
    assert banyan.metric("banyan_refused_total", cause="header_time") == 40
    # A connection that was used may rest, and then has its time again.
    connection = socket.create_connection(("127.0.0.1", banyan.port))
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    connection.sendall(request)
    assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    time.sleep(3)
    connection.sendall(request)
    assert connection.recv(4096).startswith(b"HTTP/1.1 200"), "longer than header_time, shorter than idle"
    begun = time.monotonic()
    connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow:")
    assert closed_after(connection, begun, 15) < 8


def test_a_body_below_the_least_rate_is_refused(start, origin):
    banyan = proxy(start, origin, "body_rate: 1KiB/s, idle: 5s")
    connection = socket.create_connection(("127.0.0.1", banyan.port))
    begun = time.monotonic()
    connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
    connection.settimeout(0.5)
    answer = b""
    while time.monotonic() - begun < 20 and not answer:
        try:
            connection.sendall(b"x" * 100)
            answer = connection.recv(4096)
        except TimeoutError:
            continue
    took = time.monotonic() - begun
    assert answer.startswith(b"HTTP/1.1 408") and b"body rate" in answer and 9 < took < 15, (answer, took)
    # A fast one of any length is not.
    status = curl("-X", "POST", "--data-binary", f"@{__file__}", "--limit-rate", "2k", f"http://127.0.0.1:{banyan.port}/")[0]
    assert status == 200 and banyan.metric("banyan_refused_total", cause="body_rate") == 1


def test_more_connections_than_allowed_are_told_so_and_the_admin_still_answers(start, origin):
    banyan = proxy(start, origin, "connections: 50, header_time: 30s")
    held = [socket.create_connection(("127.0.0.1", banyan.port)) for _ in range(50)]

    def refused():
        try:
            answer = send(banyan.port, "GET", "/")
        except OSError:
            return False
        # There was a place left: somebody was on the way out when the last one came.
        if answer.status != 503:
            held.append(socket.create_connection(("127.0.0.1", banyan.port)))
        return answer.status == 503 and header(answer.headers, "retry-after") == "1"

    wait_for("a refusal", refused)
    assert banyan.api("/readyz")[0] == 200 and banyan.metric("banyan_refused_total", cause="connections") >= 1
    [it.close() for it in held]
    wait_for("room again", lambda: send(banyan.port, "GET", "/").status == 200)
    assert [send(banyan.port, "GET", "/").status for _ in range(100)] == [200] * 100


def test_with_memory_short_new_work_is_refused_but_what_matters_most_and_it_is_over_in_seconds(start):
    """Signed bodies are held whole: clients that send most of one and then nothing fill the memory."""
    port = lease_port()
    start(Nginx, f"server {{ listen 127.0.0.1:{port}; client_max_body_size 0; location / {{ return 200 ok; }} }}", port=port)
    rules = f"""
version: 1
backends:
  b: {{urls: ["http://127.0.0.1:{port}"]}}
  s: {{urls: ["http://127.0.0.1:{port}"], sign: {{service: lambda, region: eu-west-1, max_body: 100MiB}}}}
routes:
  - {{id: held, match: {{prefix: /held}}, serverless: s, stage: serverless}}
  - {{id: vital, match: {{prefix: /vital}}, legacy: b, priority: high}}
  - {{id: usual, match: {{prefix: /usual}}, legacy: b}}
"""
    banyan = start(Banyan, rules, "version: 1\nlimits: {memory: 300MiB, buffered: 1GiB}\n", env={"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret"})
    before = banyan.metric("banyan_resident_memory_bytes")
    assert 10 << 20 < before < 250 << 20 and send(banyan.port, "GET", "/usual").status == 200
    holders = []
    for _ in range(6):
        holder = socket.create_connection(("127.0.0.1", banyan.port))
        # The last ones may be refused already.
        with contextlib.suppress(OSError):
            holder.sendall(b"POST /held HTTP/1.1\r\nHost: x\r\nContent-Length: 60000000\r\n\r\n" + b"x" * 50_000_000)
        holders.append(holder)
    wait_for("memory to be short", lambda: send(banyan.port, "GET", "/usual").status == 503)
    refused = send(banyan.port, "GET", "/usual")
    assert refused.status == 503 and header(refused.headers, "retry-after") == "1" and header(refused.headers, "connection") == "close"
    assert send(banyan.port, "GET", "/vital").status == 200, "what matters most is served on"
    assert banyan.api("/readyz")[0] == 200 and banyan.metric("banyan_refused_total", cause="memory") >= 1
    assert banyan.metric("banyan_resident_memory_bytes") > 300 << 20
    [it.close() for it in holders]
    begun = time.monotonic()
    wait_for("room again", lambda: send(banyan.port, "GET", "/usual").status == 200, seconds=20)
    print(f"\nover after {time.monotonic() - begun:.1f} s")
    assert "memory is short" in banyan.text() and "memory is there again" in banyan.text()


def test_when_places_are_short_low_goes_first_and_high_last(start, origin):
    rules = f"""
version: 1
backends: {{b: {{urls: ["http://127.0.0.1:{origin}"]}}}}
routes:
  - {{id: low, match: {{prefix: /low}}, legacy: b, priority: low}}
  - {{id: usual, match: {{prefix: /usual}}, legacy: b}}
  - {{id: high, match: {{prefix: /high}}, legacy: b, priority: high}}
"""
    banyan = start(Banyan, rules, "version: 1\nlimits: {connections: 20, idle: 60s}\n")
    ask = lambda path: send(banyan.port, "GET", path)  # noqa: E731
    kept = []

    def keep(count):
        """So many connections that have asked once and rest."""
        while len(kept) < count:
            kept.append(http.client.HTTPConnection("127.0.0.1", banyan.port))
            kept[-1].request("GET", "/high")
            assert kept[-1].getresponse().read() == b"ok"

    def answers():
        return [ask(path).status for path in ("/low", "/usual", "/high")]

    keep(10)
    assert answers() == [200, 200, 200]
    # Of 20: six tenths for low, the last tenth for nobody but high; the asking connection counts.
    keep(13)
    assert answers() == [503, 200, 200]
    keep(18)
    assert answers() == [503, 503, 200]
    refused = ask("/usual")
    assert header(refused.headers, "retry-after") == "1" and refused.body == b'{"message":"Service Unavailable"}'
    assert banyan.api("/readyz")[0] == 200
    banyan.counts(4, "banyan_refused_total", cause="overload")
    [it.close() for it in kept]
    wait_for("places again", lambda: answers() == [200, 200, 200])
