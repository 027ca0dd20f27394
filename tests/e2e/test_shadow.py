"""Shadow traffic: whoever answers, the other side gets a copy, the answers are compared, and nothing that goes wrong with the copy is
felt by a client."""

import gzip
import http.client
import json
import threading
import time

import pytest
from conftest import Airline, Banyan, Nginx, header, lease_port, wait_for
from emulators import REGION, ROOT_KEY, Ministack, environment, send
from test_protocols import Origin

LEGACY = {"/same": '{"a": 1, "b": [1, 2, 3], "c": "x"}', "/order": '{"items": [{"id": 1}, {"id": 2}, {"id": 3}]}', "/value": '{"price": 12.5, "name": "ä"}',
          "/shape": '{"id": 7, "gone": true}', "/number": '{"n": 1, "m": 0.10, "big": 9007199254740993}', "/status": '{}', "/text": "one\ntwo\n", "/noise": '{"traceId": "a", "v": 1}'}
SERVERLESS = {**LEGACY, "/same": '{"c":"x","b":[1,2,3],"a":1}', "/order": '{"items":[{"id":3},{"id":1},{"id":2}]}', "/value": '{"price": 13.5, "name": "ä"}',
              "/shape": '{"id": "7", "new": 1}', "/number": '{"n": 1.0, "m": 0.1, "big": 9007199254740992}', "/text": "one\nthree\n", "/noise": '{"traceId": "b", "v": 1}'}


def server(port, answers, extra=""):
    kind = lambda path: "text/plain" if path == "/text" else "application/json"  # noqa: E731
    pages = "".join(f"location = {path} {{ default_type {kind(path)}; return 200 '{body}'; }}\n" for path, body in answers.items())
    return f'server {{ listen 127.0.0.1:{port}; add_header X-Was-Shadow "$http_x_banyan_shadow"; {extra} {pages} }}\n'


def rules(legacy, serverless, stage="shadow", shadow="{sample: 100%}", extra=""):
    return f"""
version: 1
backends:
  old: {{urls: ["http://127.0.0.1:{legacy}"]}}
  new: {{urls: ["http://127.0.0.1:{serverless}"]}}
routes: [{{id: r, match: {{prefix: /}}, legacy: old, serverless: new, stage: {stage}, effects: safe, shadow: {shadow}{extra}}}]
"""


def evidence(banyan):
    return banyan.api("/api/v1/evidence/r")[1]


def differences(banyan):
    return {(it["path"], it["kind"]): it["count"] for it in banyan.api("/api/v1/differences?route=r")[1]["differences"]}


def settled(banyan, count):
    """All copies are compared, dropped or lost."""
    def done():
        told = evidence(banyan)
        return told if told["compared"] + told["inconclusive"] + told["dropped"] >= count else None

    return wait_for(f"{count} copies", done, seconds=30)


@pytest.fixture
def sides(start):
    legacy, serverless = lease_port(), lease_port()
    others = {path: body for path, body in LEGACY.items() if path != "/status"}
    start(Nginx, server(legacy, others, "location = /status { return 404; }") + server(serverless, SERVERLESS), a=legacy, b=serverless)
    return legacy, serverless


def test_answers_are_compared_and_each_kind_of_difference_is_named(start, sides):
    banyan = start(Banyan, rules(*sides, shadow='{sample: 100%, ignore: ["json:$.traceId"]}').replace("stage: shadow", "stage: shadow"))
    for path in LEGACY:
        answer = send(banyan.port, "GET", path)
        assert "side=legacy" in header(answer.headers, "x-banyan") and answer.body.decode() == (LEGACY[path] if path != "/status" else answer.body.decode())
        # The copy says so; the primary does not.
        assert not answer.header("x-was-shadow")
    told = settled(banyan, len(LEGACY))
    assert (told["eligible"], told["sampled"], told["compared"], told["dropped"]) == (len(LEGACY), len(LEGACY), len(LEGACY), 0), told
    assert differences(banyan) == {
        ("$.items", "order"): 1, ("$.price", "value"): 1, ("$.id", "type"): 1, ("$.gone", "missing"): 1, ("$.new", "extra"): 1,
        ("$.n", "number_format"): 1, ("$.big", "value"): 1, ("status", "status"): 1, ("line 2", "text"): 1,
    }
    assert told["mismatched"] == 6 and told["parity_upper_bound"] > 0.5
    assert banyan.metric("banyan_comparisons_total", route="r", verdict="match") == 2
    assert banyan.metric("banyan_shadow_total", route="r", result="answered") == len(LEGACY)
    shown = banyan.cli("show", "r").stdout
    assert "8 compared of 8 eligible, 6 differ" in shown and "$.price value: number:" in shown and "(unknown)" in shown
    assert "12.5" not in json.dumps(banyan.api("/api/v1/differences")[1])


@pytest.mark.parametrize("stage,primary", [("canary, share: 100%", "serverless"), ("serverless", "serverless"), ("canary, share: 0%", "legacy")])
def test_whoever_answers_the_other_side_is_the_shadow(start, sides, stage, primary):
    banyan = start(Banyan, rules(*sides, stage=stage))
    for _ in range(5):
        answer = send(banyan.port, "GET", "/value")
        assert f"side={primary}" in header(answer.headers, "x-banyan")
    told = settled(banyan, 5)
    assert told["compared"] == told["mismatched"] == 5 and differences(banyan) == {("$.price", "value"): 5}


def test_what_is_not_safe_is_not_sent_twice_and_the_sample_is_kept(start, sides):
    text = rules(*sides).replace("effects: safe, ", "").replace("shadow: {sample: 100%}", "shadow: {sample: 100%, policy: off}")
    banyan = start(Banyan, text)
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        send(banyan.port, method, "/same", [], b"x")
    assert send(banyan.port, "GET", "/same").status == 200
    assert settled(banyan, 5)["eligible"] == 1 and evidence(banyan)["dropped_by"] == {"unsafe": 4}
    assert banyan.metric("banyan_shadow_dropped_total", route="r", cause="unsafe") == 4
    (banyan.state / "KILL").touch()
    wait_for("the kill", lambda: "reason=kill" in header(send(banyan.port, "HEAD", "/same").headers, "x-banyan"))
    before = evidence(banyan)["eligible"]
    send(banyan.port, "GET", "/same")
    assert evidence(banyan)["eligible"] == before, "a route that was killed is left alone"
    banyan = start(Banyan, rules(*sides, shadow="{sample: 25%}"))
    for _ in range(400):
        send(banyan.port, "GET", "/same")
    told = settled(banyan, 50)
    assert told["eligible"] == 400 and 55 < told["sampled"] < 150, told
    wait_for("all of them", lambda: evidence(banyan)["compared"] == evidence(banyan)["sampled"])
    # None of n differs: the bound of Clopper and Pearson is 1 - 0.05^(1/n).
    told = evidence(banyan)
    assert abs(told["parity_upper_bound"] - (1 - 0.05 ** (1 / told["compared"]))) < 1e-9
    assert banyan.metric("banyan_parity_upper_bound_ratio", route="r") == pytest.approx(told["parity_upper_bound"])


def test_the_copy_is_marked_unconditional_and_its_cookies_go_nowhere(start, sides):
    legacy, serverless = sides
    seen = []

    def answer(connection, data):
        seen.append(data)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nSet-Cookie: evil=1\r\nContent-Length: 2\r\n\r\n{}")

    origin = Origin(answer)
    banyan = start(Banyan, rules(legacy, origin.port))
    given = [("If-None-Match", '"1"'), ("Range", "bytes=0-1"), ("X-Banyan-Shadow", "0"), ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]
    answer = send(banyan.port, "GET", "/same?q=1", given)
    assert answer.header("set-cookie") is None
    settled(banyan, 1)
    copy = seen[0].lower()
    assert copy.startswith(b"get /same?q=1 ") and b"x-banyan-shadow: 1\r\n" in copy and b"if-none-match" not in copy and b"range" not in copy
    assert b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-" in copy and b"b7ad6b7169203331" not in copy


def test_bodies_and_content_codings_are_compared(start):
    same = json.dumps({"list": list(range(2000))}).encode()
    packed = gzip.compress(same)

    def echo(coding):
        def answer(connection, data):
            head, _, body = data.partition(b"\r\n\r\n")
            length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0)
            while len(body) < length:
                body += connection.recv(65536)
            if b"chunked" in head.lower():
                while not body.endswith(b"0\r\n\r\n"):
                    body += connection.recv(65536)
            elif body != b"question" * 1000:
                return connection.sendall(b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n")
            payload, extra = (packed, b"Content-Encoding: gzip\r\n") if coding else (same, b"")
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b" % (extra, len(payload), payload))

        return answer

    legacy, serverless = Origin(echo(False)), Origin(echo(True))
    banyan = start(Banyan, rules(legacy.port, serverless.port))
    assert send(banyan.port, "POST", "/q", [("Content-Type", "text/plain")], b"question" * 1000).body == same
    assert send(banyan.port, "POST", "/q", [("Transfer-Encoding", "chunked")], iter([b"question" * 500] * 2)).body == same
    told = settled(banyan, 2)
    assert (told["compared"], told["mismatched"]) == (2, 0), (told, differences(banyan))


def test_functions_are_shadows_and_have_shadows(start):
    cloud, port = start(Ministack), lease_port()
    code = "import json\ndef handler(event, context):\n    print('x')\n    seen = event['headers'].get('x-banyan-shadow', '')\n    return {'statusCode': 200, 'headers': {'content-type': 'application/json'}, 'body': json.dumps({'v': 1, 'shadow': seen})}\n"
    cloud.function("f", code)
    start(Nginx, f"server {{ listen 127.0.0.1:{port}; default_type application/json; location / {{ return 200 '{{\"shadow\": \"$http_x_banyan_shadow\", \"v\": 1}}'; }} }}", port=port)
    for stage, wanted in (("shadow", {("$.shadow", "value"): 2}), ("serverless", {("$.shadow", "value"): 2})):
        text = rules(port, 1, stage=stage).replace('new: {urls: ["http://127.0.0.1:1"]}', f'new: {{lambda: {{function: f, region: {REGION}, endpoint: "{cloud.url}"}}}}')
        banyan = start(Banyan, text, env=environment(ROOT_KEY))
        assert send(banyan.port, "GET", "/x").json()["shadow"] == ""
        assert send(banyan.port, "POST", "/x", [("Content-Type", "text/plain")], b"body").status == 200
        assert settled(banyan, 2)["compared"] == 2
        assert differences(banyan) == wanted
        banyan.stop()


GIGABYTE = 1 << 30


def hangs(connection, data):
    time.sleep(60)


def trickles(connection, data):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(60):
        connection.sendall(b"x")
        time.sleep(1)


def floods(connection, data):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % GIGABYTE)
    for _ in range(GIGABYTE >> 20):
        connection.sendall(b"x" * (1 << 20))


# A hundred kilobytes that become a hundred megabytes.
BOMB = gzip.compress(b"\0" * (100 << 20))


def bombs(connection, data):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB)


def malformed(connection, data):
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nnot a chunk\r\n")


def closes(connection, data):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")


def deep(connection, data):
    body = b"[" * 100_000 + b"]" * 100_000
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


FAULTS = {"hung after accept": hangs, "refusing": None, "one byte a second": trickles, "a gigabyte": floods, "a bomb of 1000:1": bombs, "malformed chunks": malformed,
          "closing in the middle": closes, "nested beyond sense": deep}


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_that_goes_wrong_with_the_shadow_is_felt(start, sides, fault):
    answer = FAULTS[fault]

    def quietly(connection, data):
        try:
            answer(connection, data)
        except OSError:
            pass

    port = Origin(quietly).port if answer else lease_port()
    banyan = start(Banyan, rules(sides[0], port))
    before = banyan.rss_kib()
    failed, slowest = [], [0.0]

    def client():
        connection = http.client.HTTPConnection("127.0.0.1", banyan.port, timeout=10)
        for _ in range(150):
            begun = time.monotonic()
            connection.request("GET", "/same")
            got = connection.getresponse()
            if got.status != 200 or got.read().decode() != LEGACY["/same"]:
                failed.append(got.status)
            slowest[0] = max(slowest[0], time.monotonic() - begun)

    clients = [threading.Thread(target=client) for _ in range(4)]
    for one in clients:
        one.start()
    for one in clients:
        one.join(60)
    told = evidence(banyan)
    assert not failed and slowest[0] < 2, (failed, slowest)
    assert told["eligible"] == told["sampled"] == 600 and told["compared"] - told["mismatched"] == 0, told
    # 64 MiB are what waiting copies may keep; the rest is room for the debug binary's own.
    assert banyan.rss_kib() - before < 120 << 10, (before, banyan.rss_kib())
    wait_for("losses to be counted", lambda: sum(evidence(banyan)[key] for key in ("mismatched", "inconclusive", "dropped")) > 0, seconds=20)
    assert "panicked" not in banyan.text()


def test_a_full_queue_drops_and_counts(start, sides):
    origin = Origin(lambda connection, data: time.sleep(60))
    banyan = start(Banyan, rules(sides[0], origin.port, extra=", timeouts: {first_byte: 60s}"))
    connection = http.client.HTTPConnection("127.0.0.1", banyan.port, timeout=10)
    # 64 under way and 1,024 waiting; what comes then is dropped at once.
    for _ in range(1300):
        connection.request("GET", "/same")
        assert connection.getresponse().read().decode() == LEGACY["/same"]
    assert wait_for("drops", lambda: banyan.metric("banyan_shadow_dropped_total", route="r", cause="queue_full")) >= 100
    assert evidence(banyan)["dropped"] >= 100
