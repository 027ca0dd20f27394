"""What copies may not take: a connection that a client waits for, the proof of another target, or the evidence of other rules."""

import signal
import threading
import time

import pytest
from conftest import Again, Banyan, Nginx, lease_port, wait_for
from emulators import send
from test_protocols import Origin
from test_shadow import SERVERLESS, evidence, rules, server, settled


def answer(body, slow_shadows=0.0):
    def one(connection, data):
        if slow_shadows and b"\r\nx-banyan-shadow:" in data.lower():
            time.sleep(slow_shadows)
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    return one


def test_a_copy_gives_its_connection_to_a_client_that_waits_for_one(start):
    legacy, serverless = Origin(answer(b"{}", slow_shadows=8)), Origin(answer(b"{}"))
    banyan = start(Banyan, f"""
version: 1
backends:
  old: {{urls: ["http://127.0.0.1:{legacy.port}"], connections: {{max: 4, queue: 100, queue_wait: 2s}}}}
  new: {{urls: ["http://127.0.0.1:{serverless.port}"]}}
routes:
  - {{id: r, match: {{prefix: /r}}, legacy: old, serverless: new, effects: safe, stage: serverless, shadow: {{controls: 0%}}}}
  - {{id: leg, match: {{prefix: /leg}}, legacy: old}}
""")
    for number in range(4):
        assert send(banyan.port, "GET", f"/r/{number}").status == 200
    wait_for("copies on all connections", lambda: sum(b"/r/" in seen for seen in legacy.seen) == 4)
    began = time.monotonic()
    assert send(banyan.port, "GET", "/leg/1").status == 200
    assert time.monotonic() - began < 1.5, "no client waits for a copy"
    told = settled(banyan, 4)
    assert told["dropped_by"]["connections"] >= 1 and told["mismatched"] == 0, told


def test_a_client_without_a_condition_that_is_told_of_one_is_compared(start):
    def told(connection, data):
        connection.sendall(b"HTTP/1.1 412 Precondition Failed\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")

    legacy, serverless = Origin(told), Origin(answer(b"{}"))
    banyan = start(Banyan, rules(legacy.port, serverless.port))
    assert send(banyan.port, "GET", "/x").status == 412
    assert settled(banyan, 1)["mismatched"] == 1
    assert send(banyan.port, "GET", "/x", [("If-Match", '"a"')]).status == 412
    assert settled(banyan, 2)["dropped_by"] == {"conditional": 1}


@pytest.fixture
def proved(start):
    port = lease_port()
    start(Nginx, f"""server {{ listen 127.0.0.1:{port}; location = /.well-known/banyan-shadow {{ add_header X-Banyan-Shadow sandbox; return 204; }}
      location / {{ return 200 'x'; }} }}""", port=port)
    return port


def test_a_proof_is_of_the_path_it_was_given_at(start, proved):
    legacy = Origin(answer(b"{}"))
    text = rules(legacy.port, proved, shadow="{policy: sandbox}").replace("effects: safe", "effects: unsafe")
    banyan = start(Banyan, text)
    first = banyan.api("/readyz")[1]["revision"]
    banyan.write_rules(text.replace("policy: sandbox", "policy: sandbox, handshake: /elsewhere"))
    wait_for("the refusal", lambda: "shadow_handshake" in banyan.text())
    assert banyan.api("/readyz")[1]["revision"] == first


def gone(text):
    return text[:text.index("routes:")] + 'routes: [{id: other, match: {prefix: /other}, legacy: old}]\n'


def test_evidence_of_a_route_that_comes_back_is_its_own(start):
    legacy, serverless = lease_port(), lease_port()
    pages = {**SERVERLESS, "/status": "{}"}
    start(Nginx, server(legacy, pages) + server(serverless, {**pages, "/value": "{}"}), a=legacy, b=serverless)
    text = rules(legacy, serverless)
    banyan = start(Banyan, text)
    send(banyan.port, "GET", "/same")
    send(banyan.port, "GET", "/value")
    assert (settled(banyan, 2)["compared"], evidence(banyan)["mismatched"]) == (2, 1)
    # Away and back, the same: nothing is lost.
    banyan.write_rules(gone(text))
    wait_for("its going", lambda: banyan.api("/api/v1/evidence/r", check=False)[0] == 404)
    banyan.write_rules(text)
    wait_for("its return", lambda: banyan.api("/api/v1/evidence/r", check=False)[0] == 200)
    assert (evidence(banyan)["compared"], evidence(banyan)["mismatched"]) == (2, 1)
    send(banyan.port, "GET", "/same")
    assert settled(banyan, 3)["compared"] == 3
    # Away and back with another path behind it: what was found says nothing of it, now and after a restart.
    banyan.write_rules(gone(text))
    wait_for("its going", lambda: banyan.api("/api/v1/evidence/r", check=False)[0] == 404)
    banyan.write_rules(text.replace("stage: shadow", "stage: shadow, rewrite: {prefix: /same}").replace("prefix: /}", "prefix: /value}"))
    wait_for("its return", lambda: banyan.api("/api/v1/evidence/r", check=False)[0] == 200)
    assert evidence(banyan)["compared"] == 0
    send(banyan.port, "GET", "/value")
    assert (settled(banyan, 1)["compared"], evidence(banyan)["mismatched"]) == (1, 0)
    # Written once a second.
    time.sleep(2.5)
    banyan.stop(signal.SIGKILL)
    again = start(Again, banyan)
    assert (evidence(again)["compared"], evidence(again)["mismatched"]) == (1, 0)
    # The gauges know of it before the next request.
    wait_for("the gauge", lambda: again.metric("banyan_coverage_ratio", route="r") == 1)


def test_a_write_that_waits_to_be_seen_holds_up_nobody(start):
    legacy, serverless = Origin(answer(b"{}")), Origin(answer(b"{}"))
    verify = "{policy: verify_after_write, verify: {read: /x, lag: 20s}}"
    write = f"{{id: w, match: {{prefix: /w}}, legacy: old, serverless: new, stage: shadow, effects: unsafe, shadow: {verify}}}"
    banyan = start(Banyan, rules(legacy.port, serverless.port).replace("routes: [", f"routes: [{write}, "))
    posts = [threading.Thread(target=send, args=(banyan.port, "POST", "/w/1", [], b"x")) for _ in range(80)]
    [post.start() for post in posts]
    [post.join() for post in posts]
    assert send(banyan.port, "GET", "/r").status == 200
    assert settled(banyan, 1)["compared"] == 1
    assert banyan.api("/api/v1/evidence/w")[1]["compared"] == 0
