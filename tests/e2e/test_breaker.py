"""A backend that fails is left alone, tried by a few, and taken back; an address that fails alone is left out."""

import socket
import subprocess
import time

from conftest import BANYAN, Airline, Banyan, Nginx, curl, header, lease_port, wait_for
from emulators import send


def rules(legacy, serverless, breaker, route="stage: serverless"):
    return f"""
version: 1
backends:
  l: {{urls: ["http://127.0.0.1:{legacy}"]}}
  s: {{urls: ["http://127.0.0.1:{serverless}"], host: catalog.lambda-url.example, breaker: {{{breaker}}}}}
routes: [{{id: r, match: {{prefix: /}}, legacy: l, serverless: s, {route}}}]
"""


def sides(banyan, count):
    """Which side answered, and why, by the attribution header."""
    found = []
    for _ in range(count):
        answer = send(banyan.port, "GET", "/api/flights")
        text = header(answer.headers, "x-banyan") or ""
        found.append((answer.status, text.partition("side=")[2].partition(",")[0], text.partition("reason=")[2].partition(",")[0]))
    return found


def test_a_failing_side_is_left_alone_tried_by_few_and_taken_back(start):
    airline = start(Airline)
    banyan = start(Banyan, rules(airline.legacy, airline.serverless, "failures: 4, open_for: 1s, open_max: 4s, probes: 2"))
    assert sides(banyan, 3) == [(200, "serverless", "stage")] * 3
    airline.faults("serverless", {"prefix": "/", "status": 500})
    found = sides(banyan, 12)
    assert found[:4] == [(500, "serverless", "stage")] * 4 and found[4:] == [(200, "legacy", "breaker")] * 8, found
    assert banyan.metric("banyan_breaker_state", backend="s") == 1 and banyan.metric("banyan_breaker_state", backend="l") == 0
    backend = next(it for it in banyan.api("/api/v1/backends")[1]["backends"] if it["id"] == "s")
    assert backend["breaker"]["state"] == "open" and backend["available"] is False
    assert "failures_in_a_row" in banyan.text()
    # After a second one is tried, fails, and the next rest is twice as long.
    begun = time.monotonic()
    wait_for("a probe", lambda: (500, "serverless", "stage") in sides(banyan, 3))
    assert 0.3 < time.monotonic() - begun < 4
    begun = time.monotonic()
    airline.faults("serverless")
    wait_for("the return", lambda: sides(banyan, 4) == [(200, "serverless", "stage")] * 4)
    assert time.monotonic() - begun > 1, "two seconds, less what has passed"
    banyan.counts(0, "banyan_breaker_state", backend="s")
    assert banyan.metric("banyan_breaker_transitions_total", backend="s", to="open", mode="enforce") == 2
    assert banyan.metric("banyan_breaker_transitions_total", backend="s", to="closed", mode="enforce") == 1


def test_slow_calls_open_it_and_who_only_observes_says_so(start):
    airline = start(Airline)
    breaker = "slow_call: 100ms, slow_rate: 50%, min_calls: 4, failures: 0, open_for: 30s"
    airline.faults("serverless", {"prefix": "/", "delay_ms": 200})
    banyan = start(Banyan, rules(airline.legacy, airline.serverless, breaker))
    assert [side for _, side, _ in sides(banyan, 6)] == ["serverless"] * 4 + ["legacy"] * 2
    observer = start(Banyan, rules(airline.legacy, airline.serverless, breaker + ", observe: true"))
    assert [side for _, side, _ in sides(observer, 6)] == ["serverless"] * 6
    assert observer.metric("banyan_breaker_transitions_total", backend="s", to="open", mode="observe") == 1


def test_a_backend_without_another_side_is_refused_quickly_and_connects_count(start):
    closed = lease_port()
    rule = f"""
version: 1
backends: {{b: {{urls: ["http://127.0.0.1:{closed}"], breaker: {{failures: 3, open_for: 30s}}}}}}
routes: [{{id: r, match: {{prefix: /}}, legacy: b}}]
"""
    banyan = start(Banyan, rule)
    answers = [send(banyan.port, "GET", "/") for _ in range(5)]
    assert [it.status for it in answers] == [502, 502, 502, 503, 503]
    assert header(answers[-1].headers, "retry-after") and b"breaker open" in answers[-1].body
    assert banyan.metric("banyan_refused_total", cause="breaker_open") == 2


def test_a_hand_beats_the_breaker(start):
    airline = start(Airline)
    banyan = start(Banyan, rules(airline.legacy, airline.serverless, ""))
    out = banyan.cli("breaker", "s", "open", "--reason", "maintenance")
    assert out.returncode == 0 and "s: open, held by hand" in out.stdout, out
    assert sides(banyan, 2) == [(200, "legacy", "breaker")] * 2
    assert banyan.cli("breaker", "s", "auto").returncode == 0
    assert sides(banyan, 2) == [(200, "serverless", "stage")] * 2
    assert banyan.cli("breaker", "l", "open").returncode == 1, "the rules give it none"
    assert banyan.cli("breaker", "nobody", "open").returncode == 1
    assert banyan.api("/api/v1/backends/s/breaker", "POST", {"state": "ajar"}, check=False)[0] == 400
    assert "maintenance" in banyan.text()
    # It is a change like any other: in the audit log, tried before, and only where the state is as one thinks.
    entries = [(it["action"], it["scope"], it["reason"]) for it in banyan.api("/api/v1/audit")[1]["entries"]]
    assert entries == [("breaker open", "backend:s", "maintenance"), ("breaker auto", "backend:s", "")] and banyan.cli("audit").returncode == 0
    out = banyan.cli("breaker", "s", "open", "--dry-run")
    assert out.returncode == 0 and "s: would be open, held by hand" in out.stdout and sides(banyan, 1) == [(200, "serverless", "stage")]
    assert banyan.cli("breaker", "s", "open", "--if-revision", "99").returncode == 1 and sides(banyan, 1) == [(200, "serverless", "stage")]


def test_an_address_that_fails_alone_is_left_out_but_never_too_many(start):
    good, bad, worse = lease_port(), lease_port(), lease_port()
    servers = "".join(f"server {{ listen 127.0.0.1:{port}; location / {{ return {status} {port}; }} }} " for port, status in [(good, 200), (bad, 500), (worse, 500)])
    start(Nginx, servers, good=good, bad=bad, worse=worse)
    urls = ", ".join(f'"http://127.0.0.1:{port}"' for port in (good, bad, worse))
    rule = f"""
version: 1
backends: {{b: {{urls: [{urls}], outliers: {{failures: 3, eject_for: 30s, max_ejected: 50%}}}}}}
routes: [{{id: r, match: {{prefix: /}}, legacy: b}}]
"""
    banyan = start(Banyan, rule)
    first = [send(banyan.port, "GET", "/").status for _ in range(30)]
    then = [send(banyan.port, "GET", "/").status for _ in range(30)]
    assert first.count(500) >= 6 and then.count(500) == 15, "of three addresses one may be left out; the other two take turns"
    assert banyan.metric("banyan_outlier_ejections_total", backend="b") == 1


def test_those_left_out_are_asked_where_nobody_else_is_healthy(start):
    ill, failing = lease_port(), lease_port()
    servers = f"server {{ listen 127.0.0.1:{failing}; location /h {{ return 200 ok; }} location / {{ return 500 no; }} }} server {{ listen 127.0.0.1:{ill}; location / {{ return 500 ill; }} }}"
    start(Nginx, servers, ill=ill, failing=failing)
    rule = f"""
version: 1
backends: {{b: {{urls: ["http://127.0.0.1:{ill}", "http://127.0.0.1:{failing}"], outliers: {{failures: 3, eject_for: 30s, max_ejected: 50%}}, health: {{path: /h, interval: 1s, unhealthy_after: 1}}}}}}
routes: [{{id: r, match: {{prefix: /}}, legacy: b}}]
"""
    banyan = start(Banyan, rule)
    wait_for("one to be ill", lambda: send(banyan.port, "GET", "/").body == b"no" and send(banyan.port, "GET", "/").body == b"no")
    assert {send(banyan.port, "GET", "/").body for _ in range(10)} == {b"no"}, "it is left out, and answers for want of another"
    assert banyan.metric("banyan_outlier_ejections_total", backend="b") == 1


def test_a_client_that_stops_sending_is_no_failure_of_the_backend(start):
    airline = start(Airline)
    text = rules(airline.legacy, airline.serverless, "failures: 3, open_for: 30s", "stage: serverless, timeouts: {first_byte: 500ms}")
    banyan = start(Banyan, text)
    for _ in range(4):
        with socket.create_connection(("127.0.0.1", banyan.port), timeout=10) as client:
            client.sendall(b"POST /api/loyalty HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
            assert client.recv(100).startswith(b"HTTP/1.1 408 "), "it is the client's to go on"
    assert sides(banyan, 2) == [(200, "serverless", "stage")] * 2 and banyan.metric("banyan_breaker_state", backend="s") == 0
    assert banyan.metric("banyan_refused_total", cause="request_timeout") == 4
    # A backend that says nothing to a whole request is another matter.
    airline.faults("serverless", {"prefix": "/", "delay_ms": 3000})
    assert [status for status, *_ in sides(banyan, 3)] == [504] * 3 and banyan.metric("banyan_breaker_state", backend="s") == 1


def test_rules_about_breakers_are_checked(tmp_path):
    (tmp_path / "r.yaml").write_text(rules(1, 2, "probes: 0, open_for: 10s, open_max: 1s, slow_rate: 10%"))
    out = subprocess.run([BANYAN, "check", tmp_path], capture_output=True, text=True, timeout=20)
    assert out.returncode == 1 and all(code in out.stdout for code in ["breaker_zero", "breaker_open_max", "breaker_slow_rate"]), out.stdout
