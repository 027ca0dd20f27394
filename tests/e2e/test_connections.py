"""Connections of backends: a hard cap with a queue in turn, shared by tunnels where the rules say so, from addresses and ports of our own. The load
is wrk's and curl's; who counts is the other side, which keeps every connection as long as it is left open."""

import contextlib
import socket
import subprocess
import threading
import time

import pytest
from conftest import Airline, Banyan, Nginx, curl, header, is_open, lease_port, needs, wait_for


class Bank:
    """Keeps connections alive, and takes its time for each answer."""

    def __init__(self, hosts=("127.0.0.1",), seconds=0.02):
        self.port, self.seconds, self.made = lease_port(), seconds, 0
        for host in hosts:
            threading.Thread(target=self._run, args=(socket.create_server((host, self.port), backlog=1024),), daemon=True).start()

    def _run(self, server):
        while True:
            client = server.accept()[0]
            self.made += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        heard = b""
        with contextlib.suppress(OSError), client:
            while data := client.recv(65536):
                heard += data
                while b"\r\n\r\n" in heard:
                    heard = heard.split(b"\r\n\r\n", 1)[1]
                    time.sleep(self.seconds)
                    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def peers(port):
    """Who has a connection to a port that neither side has closed, by the kernel."""
    out = subprocess.run(["ss", "-Htn", "state", "established", "dport", "=", f":{port}"], capture_output=True, text=True, check=True).stdout
    return {line.split()[2] for line in out.splitlines()}


def established(port):
    return len(peers(port))


class Watch:
    """The most connections at any one time. A list of sockets is no picture of one moment: what stands in two lists, one after the other, was there
    between them."""

    def __init__(self, look):
        self.look, self.most, self.seen, self.over = look, 0, set(), threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        before = set()
        while not self.over.is_set():
            now = self.look()
            self.most, before = max(self.most, len(now & before)), now
            self.seen |= now

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def wrk(url, connections, seconds=3):
    needs("wrk")
    text = subprocess.run(["wrk", "-t2", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", url], capture_output=True, text=True, timeout=60).stdout
    assert "Non-2xx" not in text and "Socket errors" not in text, text
    return int(text.split(" requests in ")[0].split()[-1])


def rules(urls, connections, more="", routes="  - {id: r, match: {prefix: /}, legacy: b}\n"):
    return f"version: 1\nbackends:\n  b: {{urls: [{urls}], connections: {connections}{more}}}\nroutes:\n{routes}"


def figures(banyan, backend="b"):
    return [banyan.metric("banyan_backend_connections", backend=backend, state=state) for state in ("in_use", "idle", "queued")]


def test_many_callers_are_served_by_few_connections_to_all_addresses_together(start):
    hosts = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
    bank = Bank(hosts)
    urls = ", ".join(f'"http://{host}:{bank.port}"' for host in hosts)
    banyan = start(Banyan, rules(urls, "{max: 10, queue: 400, queue_wait: 20s}"))
    load = threading.Thread(target=lambda: results.append(wrk(f"{banyan.url}/", 200)))
    results = []
    with Watch(lambda: peers(bank.port)) as watch:
        load.start()
        wait_for("callers that wait", lambda: (figures(banyan)[2] or 0) >= 150)
        assert figures(banyan)[0] > 0
        wait_for("a wait that is seen", lambda: banyan.metric("banyan_backend_queue_wait_seconds", backend="b") > 0.05)
        load.join()
    # 10 at a time of 20 ms for 3 s are 1,500; a cap that lets fewer work than it allows would show, and one that opens and closes.
    assert results[0] > 300 and 5 <= watch.most <= 10 and bank.made < results[0] / 5, (results, watch.most, bank.made)
    waited = banyan.metric("banyan_backend_queue_seconds_count", backend="b")
    assert waited >= results[0] and banyan.metric("banyan_backend_queue_seconds_sum", backend="b") / waited > 0.05
    wait_for("all to rest", lambda: figures(banyan)[0] == 0 and figures(banyan)[1] == established(bank.port) and figures(banyan)[2] == 0)
    assert banyan.metric("banyan_source_ports", source="127.0.0.1", destination="b") == established(bank.port)
    # Who goes away while it waits, as wrk does at its end, is all that was not served.
    gone = banyan.metric("banyan_requests_total", route="r", code="499") or 0
    assert banyan.metric("banyan_requests_total", route="r", code="200") + gone == banyan.metric("banyan_requests_total", route="r")
    # Narrower rules hold for the connections that are there.
    before = banyan.revision()
    banyan.write_rules(rules(urls, "{max: 2, queue: 400, queue_wait: 20s}"))
    wait_for("the new rules", lambda: banyan.revision() != before)
    wrk(f"{banyan.url}/", 30, seconds=1)
    wait_for("two at most", lambda: sum(figures(banyan)[:2]) <= 2)


def test_tunnels_and_requests_share_a_pool_and_what_rests_makes_room(start):
    bank, tunnel = Bank(), lease_port()
    pool = "{max: 4, queue: 1, queue_wait: 400ms, pool: core}"
    text = rules(f'"http://127.0.0.1:{bank.port}"', pool) + f"egress:\n  - {{id: raw, listener: raw, callers: {{cidr: [127.0.0.0/8]}}, to: {{host: 127.0.0.1, ports: [{bank.port}]}}, via: {{connections: {pool}}}}}\n"
    settings = f"version: 1\nattribution_header: true\nlisteners: [{{name: raw, address: '127.0.0.1:{tunnel}', mode: tcp}}, {{name: web, address: '127.0.0.1:{lease_port()}'}}]\n"
    web = int(settings.rsplit(":", 1)[1].split("'")[0])
    banyan = start(Banyan, text, settings, listen=False)
    wait_for("the web", lambda: is_open(web))
    url = f"http://127.0.0.1:{web}/"
    threads = [threading.Thread(target=curl, args=(url,)) for _ in range(4)]
    [it.start() for it in threads]
    [it.join() for it in threads]
    wait_for("some that rest", lambda: figures(banyan)[0] == 0 and figures(banyan)[1] >= 2)
    holders = []
    for _ in range(4):
        holder = socket.create_connection(("127.0.0.1", tunnel), timeout=5)
        holder.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert holder.recv(100).startswith(b"HTTP/1.1 200")
        holders.append(holder)
        assert established(bank.port) <= 4
    wait_for("the gauge", lambda: figures(banyan)[:2] == [4, 0])
    status, headers, body = curl(url)
    assert (status, header(headers, "retry-after")) == (503, "1") and b"backend queue timeout" in body
    # One may wait; the others are told at once.
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(curl(url)[2].split(b"\n")[0])) for _ in range(5)]
    [it.start() for it in threads]
    [it.join() for it in threads]
    assert answers.count(b"503 Service Unavailable: backend queue full") == 4 and answers.count(b"503 Service Unavailable: backend queue timeout") == 1, answers
    banyan.counts(4, "banyan_refused_total", cause="backend_queue_full")
    assert banyan.log_lines(where=lambda line: line.get("cause") == "backend_queue_timeout")
    holders.pop().close()
    wait_for("room", lambda: curl(url)[0] == 200)
    assert established(bank.port) <= 4
    [it.close() for it in holders]
    # What differs is told before it is in force.
    bad = text.replace("max: 4, queue: 1, queue_wait: 400ms, pool: core}}}", "max: 5, pool: core}}}")
    banyan.write_rules(bad)
    wait_for("the refusal", lambda: "pool_differs" in banyan.text())
    assert curl(url)[0] == 200


def test_a_full_backend_is_left_for_the_other_side_and_its_shadows_are_dropped(start):
    slow, legacy = Bank(seconds=2), Bank(seconds=0)
    text = f"""version: 1
backends:
  new: {{urls: ["http://127.0.0.1:{slow.port}"], connections: {{max: 1, queue: 0}}}}
  old: {{urls: ["http://127.0.0.1:{legacy.port}"]}}
routes:
  - {{id: r, match: {{prefix: /r}}, legacy: old, serverless: new, stage: canary, share: 100%, fallback: {{to: legacy, on: [connect]}}}}
  - {{id: s, match: {{prefix: /s}}, legacy: old, serverless: new, stage: shadow, shadow: {{sample: 100%}}, effects: safe}}
"""
    banyan = start(Banyan, text)
    first = threading.Thread(target=lambda: curl(f"{banyan.url}/r"))
    first.start()
    wait_for("one that is in use", lambda: established(slow.port) == 1)
    status, headers, _ = curl(f"{banyan.url}/r")
    assert status == 200 and "reason=fallback" in header(headers, "x-banyan"), headers
    assert curl(f"{banyan.url}/s")[0] == 200
    wait_for("a shadow that is dropped", lambda: banyan.metric("banyan_shadow_dropped_total", route="s", cause="connections") == 1)
    first.join()
    assert slow.made == 1


def test_connections_come_from_our_addresses_and_ports(start):
    port = lease_port()
    start(Nginx, f'server {{ listen 127.0.0.1:{port}; keepalive_requests 1; location / {{ return 200 "$remote_addr $remote_port"; }} }}', port=port)
    text = f"version: 1\nbackends: {{b: {{urls: ['http://127.0.0.1:{port}'], bind: [127.0.0.5, 127.0.0.6], source_ports: 45000-45099}}}}\nroutes: [{{id: r, match: {{prefix: /}}, legacy: b}}]\n"
    banyan = start(Banyan, text)
    seen = [curl(banyan.url)[2].decode().split() for _ in range(4)]
    assert {address for address, _ in seen} == {"127.0.0.5", "127.0.0.6"} and all(45000 <= int(port) <= 45099 for _, port in seen), seen
    assert banyan.metric("banyan_source_ports", source="127.0.0.5", destination="b") is not None


def test_one_connection_carries_many_requests_where_the_backend_speaks_http_2(start):
    port = lease_port()
    start(Nginx, f"server {{ listen 127.0.0.1:{port} http2; location / {{ return 200 $connection; }} }}", port=port)
    banyan = start(Banyan, rules(f'"http://127.0.0.1:{port}"', "{max: 1, queue: 200, queue_wait: 5s}", ", protocol: h2c"))
    assert wrk(f"{banyan.url}/", 50, seconds=2) > 500
    assert sum(figures(banyan)[:2]) <= 1
    assert len({curl(banyan.url)[2] for _ in range(10)}) == 1


def test_whole_bodies_and_websockets_are_counted_too(start):
    """Writes whose bodies are held for a fallback go by another client, upgrades by connections of their own: one cap for all of them."""
    airline = start(Airline)
    text = f"""version: 1
backends:
  new: {{urls: ["http://127.0.0.1:{lease_port()}"], sign: {{service: execute-api, region: eu-west-1}}}}
  old: {{urls: ["http://127.0.0.1:{airline.legacy}"], connections: {{max: 2, queue: 100, queue_wait: 10s}}}}
routes:
  - {{id: w, match: {{prefix: /}}, legacy: old, serverless: new, stage: canary, share: 100%, effects: idempotent, fallback: {{to: legacy, on: [connect, 503]}}}}
"""
    banyan = start(Banyan, text, env={"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"})
    statuses = []

    def call(number):
        body = ["-X", "PUT", "--data", "x" * 100] if number % 2 else []
        statuses.append(curl(*body, f"{banyan.url}/nothing")[0])

    threads = [threading.Thread(target=call, args=(n,)) for n in range(60)]
    with Watch(lambda: peers(airline.legacy)) as watch:
        [it.start() for it in threads]
        [it.join() for it in threads]
    assert len(statuses) == 60 and 503 not in statuses and 502 not in statuses, statuses
    assert 1 <= watch.most <= 2, watch.most


@pytest.mark.parametrize("way", ["", ", sign: {service: execute-api, region: eu-west-1}"], ids=["as it comes", "by ourselves"])
def test_a_client_that_does_not_read_has_no_more_than_the_total_time(start, tmp_path, way):
    """An answer larger than what the kernel takes for it, to a read and to a write, whose answer we write ourselves where it is signed."""
    port = lease_port()
    (tmp_path / "large").write_bytes(b"x" * (32 << 20))
    start(Nginx, f"server {{ listen 127.0.0.1:{port}; error_page 405 =200 $uri; root {tmp_path}; }}", port=port)
    text = f"""version: 1
backends: {{s: {{urls: ["http://127.0.0.1:{port}"]{way}}}}}
routes: [{{id: r, match: {{prefix: /}}, legacy: s, timeouts: {{total: 1s}}}}]
"""
    banyan = start(Banyan, text, env={"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"})
    for number, head in enumerate([b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n", b"POST /large HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na"], 1):
        with socket.create_connection(("127.0.0.1", banyan.port)) as client:
            client.sendall(head)
            assert client.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 200"
            line = banyan.log_lines(number)[-1]
        assert line["cause"] == "client_gone" and 0.9 < line["duration"] < 3, line


def test_a_cap_holds_over_all_pools_of_a_backend_that_speaks_http_2(start):
    """Reads in the framework's pool, signed writes in our own, HTTP/1.0 and a tunnel by themselves, all to one address with one connection: each is
    served, since what rests in one pool makes room for another."""
    port, tunnel, web = lease_port(), lease_port(), lease_port()
    start(Nginx, f"server {{ listen 127.0.0.1:{port} http2; location / {{ return 200 $request_method; }} }}", port=port)
    cap = "{max: 1, queue: 100, queue_wait: 10s, pool: one}"
    text = f"""version: 1
backends:
  b: {{urls: ["http://127.0.0.1:{port}"], protocol: h2c, connections: {cap}, sign: {{service: execute-api, region: eu-west-1}}}}
routes: [{{id: r, match: {{prefix: /}}, legacy: b}}]
egress: [{{id: raw, listener: raw, callers: {{cidr: [127.0.0.0/8]}}, to: {{host: 127.0.0.1, ports: [{port}]}}, via: {{connections: {cap}}}}}]
"""
    settings = f"version: 1\nlisteners: [{{name: web, address: '127.0.0.1:{web}'}}, {{name: raw, address: '127.0.0.1:{tunnel}', mode: tcp}}]\n"
    banyan = start(Banyan, text, settings, listen=False, env={"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"})
    url, said = f"http://127.0.0.1:{web}/", []
    with Watch(lambda: peers(port)) as watch:
        for number in range(12):
            assert curl(url)[2] == b"GET"
            assert curl("-X", "POST", "--data", "x" * 50, url)[2] == b"POST"
            raw = subprocess.run(["curl", "-sS", "--http2-prior-knowledge", "--max-time", "10", f"http://127.0.0.1:{tunnel}/"], capture_output=True, text=True)
            assert raw.stdout == "GET", (number, raw)

        def mixed(number):
            body = ["-X", "POST", "--data", "x" * 50] if number % 2 else []
            said.append(curl(*body, url)[0])

        threads = [threading.Thread(target=mixed, args=(n,)) for n in range(60)]
        [it.start() for it in threads]
        [it.join() for it in threads]
    assert said == [200] * 60 and watch.most <= 1, (said, watch.most)


class Refuses:
    """Answers an upgrade with 401 and keeps the connection, as gateways do."""

    def __init__(self):
        self.port = lease_port()
        threading.Thread(target=self._run, args=(socket.create_server(("127.0.0.1", self.port)),), daemon=True).start()

    def _run(self, server):
        while True:
            threading.Thread(target=self._serve, args=(server.accept()[0],), daemon=True).start()

    def _serve(self, client):
        with contextlib.suppress(OSError), client:
            while data := client.recv(65536):
                status = b"401 Unauthorized" if b"pgrade" in data else b"200 OK"
                client.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\nok")


def test_an_upgrade_that_is_refused_keeps_no_place(start):
    refuses = Refuses()
    banyan = start(Banyan, rules(f'"http://127.0.0.1:{refuses.port}"', "{max: 1, queue: 10, queue_wait: 5s}"))
    upgrade = ["-H", "Connection: Upgrade", "-H", "Upgrade: websocket", "-H", "Sec-WebSocket-Version: 13", "-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    for _ in range(5):
        assert curl(*upgrade, f"{banyan.url}/")[0] == 401
        assert curl(f"{banyan.url}/")[0] == 200
    assert established(refuses.port) <= 1


def test_who_stops_waiting_is_not_counted_and_narrower_rules_close_what_is_too_much(start):
    slow = Bank(seconds=3)
    text = rules(f'"http://127.0.0.1:{slow.port}"', "{max: 1, queue: 3, queue_wait: 30s}", routes="  - {id: r, match: {prefix: /}, legacy: b, timeouts: {total: 4s}}\n  - {id: q, match: {prefix: /q}, legacy: b, timeouts: {total: 300ms}}\n")
    banyan = start(Banyan, text)
    holder = threading.Thread(target=lambda: curl(f"{banyan.url}/"))
    holder.start()
    wait_for("one that is in use", lambda: established(slow.port) == 1)
    for _ in range(6):
        assert curl(f"{banyan.url}/q")[0] == 503
    assert banyan.metric("banyan_refused_total", cause="backend_queue_full") is None, "nobody was in the queue"
    holder.join()
    quick = Bank(seconds=0.05)
    wide, narrow = (rules(f'"http://127.0.0.1:{quick.port}"', f"{{max: {count}, queue: 200, queue_wait: 9s}}") for count in (20, 3))
    before = banyan.revision()
    banyan.write_rules(wide)
    wait_for("the other backend", lambda: banyan.revision() != before)
    load = threading.Thread(target=wrk, args=(f"{banyan.url}/", 40, 5))
    load.start()
    wait_for("many connections", lambda: established(quick.port) >= 15)
    banyan.write_rules(narrow)
    wait_for("few connections, under the same load", lambda: established(quick.port) <= 3 and load.is_alive())
    load.join()
