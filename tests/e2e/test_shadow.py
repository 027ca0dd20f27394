"""Shadow traffic: whoever answers, the other side gets a copy, the answers are compared, and nothing that goes wrong with the copy is
felt by a client."""

import contextlib
import gzip
import http.client
import json
import signal
import socket
import subprocess
import threading
import time

import pytest
from conftest import Again, Airline, Banyan, Nginx, header, lease_port, wait_for
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
    # Some frameworks take the method from here.
    send(banyan.port, "GET", "/same", [("X-HTTP-Method-Override", "DELETE")])
    assert send(banyan.port, "GET", "/same").status == 200
    assert settled(banyan, 6)["eligible"] == 1 and evidence(banyan)["dropped_by"] == {"unsafe": 5}
    assert banyan.metric("banyan_shadow_dropped_total", route="r", cause="unsafe") == 5
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
    # The gauge follows once a second.
    wait_for("the gauge", lambda: banyan.metric("banyan_parity_upper_bound_ratio", route="r") == pytest.approx(told["parity_upper_bound"]))


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


def blackhole():
    """A port on which nobody answers: its queue of connections is full, and the kernel drops what comes."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    held = []
    for _ in range(4):
        one = socket.socket()
        one.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            one.connect(listener.getsockname())
        held.append(one)
    return listener, held


FAULTS = {"hung after accept": hangs, "refusing": None, "blackholed": None, "comparator panics": deep, "disk full": None, "one byte a second": trickles, "a gigabyte": floods, "a bomb of 1000:1": bombs, "malformed chunks": malformed,
          "closing in the middle": closes, "nested beyond sense": deep}


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_that_goes_wrong_with_the_shadow_is_felt(start, sides, tmp_path, request, fault):
    answer = FAULTS[fault]

    def quietly(connection, data):
        try:
            answer(connection, data)
        except OSError:
            pass

    hole = blackhole() if fault == "blackholed" else None
    port = hole[0].getsockname()[1] if hole else sides[1] if fault == "disk full" else Origin(quietly).port if answer else lease_port()
    disk = tmp_path / "disk"
    if fault == "disk full":
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4M", "tmpfs", disk], check=True)
        request.addfinalizer(lambda: subprocess.run(["umount", "-l", disk], check=True))
    args = ["--state", disk] if fault == "disk full" else []
    banyan = start(Banyan, rules(sides[0], port), args=args, env={"BANYAN_FAULT_COMPARATOR": "1"} if fault == "comparator panics" else None)
    if fault == "disk full":
        with contextlib.suppress(OSError), open(disk / "everything else", "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
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
    assert told["eligible"] == told["sampled"] == 600, told
    if fault == "disk full":
        wait_for("errors of the store", lambda: banyan.metric("banyan_evidence_store_errors_total"))
        wait_for("evidence in memory", lambda: evidence(banyan)["compared"] == 600)
    else:
        assert told["compared"] - told["mismatched"] == 0, told
    # 64 MiB are what waiting copies may keep; the rest is room for the debug binary's own.
    assert banyan.rss_kib() - before < 120 << 10, (before, banyan.rss_kib())
    if fault != "disk full":
        wait_for("losses to be counted", lambda: sum(evidence(banyan)[key] for key in ("mismatched", "inconclusive", "dropped")) > 0, seconds=20)
    if fault == "comparator panics":
        wait_for("panics to be counted", lambda: evidence(banyan)["dropped_by"].get("panic", 0) > 0)
    else:
        assert "panicked" not in banyan.text()
    assert send(banyan.port, "GET", "/same").status == 200


def test_a_connection_between_two_copies_is_used_again_only_while_it_is_open_and_silent(start, sides):
    """Of a shadow that closes without a word, and of one that says more than it was asked."""
    accepted, answers = [], []

    def one(connection, data):
        accepted.append(connection)
        body, data = LEGACY["/same"].encode(), data
        while data:
            assert data.endswith(b"\r\n\r\n") and data.count(b"\r\n\r\n") == 1, data
            answers.append(data)
            more = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}" if len(answers) % 7 == 0 else b""
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body + more)
            if len(answers) % 5 == 0:
                return
            data = connection.recv(65536)

    origin = Origin(one)
    banyan = start(Banyan, rules(sides[0], origin.port))
    connection = http.client.HTTPConnection("127.0.0.1", banyan.port, timeout=10)
    for _ in range(400):
        connection.request("GET", "/same")
        assert connection.getresponse().read().decode() == LEGACY["/same"]
    told = settled(banyan, 400)
    assert (told["compared"], told["mismatched"], told["dropped"]) == (400, 0, 0), told
    # Each fifth and each seventh answer costs a connection, and each that was begun beside others one more at the most.
    assert 80 <= len(accepted) <= 300, (len(accepted), len(answers))


def test_a_full_queue_drops_and_counts(start, sides):
    origin = Origin(lambda connection, data: time.sleep(60))
    banyan = start(Banyan, rules(sides[0], origin.port, extra=", timeouts: {first_byte: 60s}"))
    connection = http.client.HTTPConnection("127.0.0.1", banyan.port, timeout=10)
    # 64 under way and nobody who comes for the next: what is asked from then on is dropped at once, and does not grow old in the queue.
    for _ in range(1300):
        connection.request("GET", "/same")
        assert connection.getresponse().read().decode() == LEGACY["/same"]
    wait_for("drops", lambda: (banyan.metric("banyan_shadow_dropped_total", route="r", cause="queue_full") or 0) >= 900)
    assert evidence(banyan)["dropped"] >= 900


def test_a_slow_shadow_does_not_hold_up_the_copies_of_others(start, sides):
    hung = Origin(lambda connection, data: time.sleep(60))
    route = lambda name, serverless: f"{{id: {name}, match: {{prefix: /{name}}}, legacy: old, serverless: {serverless}, stage: shadow, effects: safe, shadow: {{sample: 100%}}, timeouts: {{first_byte: 60s}}}}"  # noqa: E731
    banyan = start(Banyan, f"""
version: 1
backends:
  old: {{urls: ["http://127.0.0.1:{sides[0]}"]}}
  new: {{urls: ["http://127.0.0.1:{sides[1]}"]}}
  hung: {{urls: ["http://127.0.0.1:{hung.port}"]}}
routes: [{route("slow", "hung")}, {route("same", "new")}]
""")
    connection = http.client.HTTPConnection("127.0.0.1", banyan.port, timeout=10)
    for number in range(800):
        connection.request("GET", "/same" if number % 4 == 0 else "/slow")
        connection.getresponse().read()
    told = lambda name: banyan.api(f"/api/v1/evidence/{name}")[1]  # noqa: E731
    assert wait_for("all of the other", lambda: (it := told("same"))["compared"] == 200 and it)["dropped"] == 0
    # At most 64 are under way and 256 wait.
    assert wait_for("drops", lambda: (told("slow")["dropped"] >= 280)) and told("slow")["compared"] == 0


def test_a_shadow_that_was_behind_is_asked_again_once_it_keeps_up(start, sides):
    slow = threading.Event()
    slow.set()

    def answer(connection, _):
        if slow.is_set():
            time.sleep(1)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    banyan = start(Banyan, rules(sides[0], Origin(answer).port))
    connection = http.client.HTTPConnection("127.0.0.1", banyan.port, timeout=10)

    def ask(number):
        for _ in range(number):
            connection.request("GET", "/same")
            assert connection.getresponse().read().decode() == LEGACY["/same"]

    ask(500)
    assert wait_for("drops", lambda: banyan.metric("banyan_shadow_dropped_total", route="r", cause="queue_full")) > 0
    slow.clear()
    settled = lambda it: it["compared"] + it["dropped"] + it["inconclusive"] == it["sampled"]
    wait_for("what was taken is compared", lambda: settled(evidence(banyan)))
    before = evidence(banyan)
    for _ in range(10):
        ask(10)
        time.sleep(0.05)
    after = wait_for("all of them", lambda: (it := evidence(banyan))["compared"] == before["compared"] + 100 and it)
    assert after["dropped"] == before["dropped"] and after["sampled"] == 600


UUID = "{:08x}-0000-4000-8000-{:012x}"


class Changing:
    """A server whose answers carry what changes by itself; serverless has a difference that is real."""

    def __init__(self, price):
        self.count, self.lock, self.price, self.posts, self.shadows = 0, threading.Lock(), price, 0, 0
        self.origin = Origin(self.answer)
        self.port = self.origin.port

    def answer(self, connection, data):
        with self.lock:
            self.count += 1
            number = self.count
            self.posts += data.startswith(b"POST")
            self.shadows += b"x-banyan-shadow: 1" in data.lower()
        body = json.dumps({"id": UUID.format(number, number * 7919), "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "price": self.price,
                           "mail": "kim@example.com", "tags": ["a", "b", "c"] if number % 2 else ["c", "a", "b"]}).encode()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


def test_what_legacy_differs_in_from_itself_is_proposed_and_pinned_by_a_person(start):
    legacy, serverless = Changing(10), Changing(11)
    text = rules(legacy.port, serverless.port, shadow="{sample: 100%, controls: 100%}")
    banyan = start(Banyan, text)

    def states():
        return {(it["path"], it["kind"]): it["state"] for it in banyan.api("/api/v1/differences?route=r")[1]["differences"]}

    send(banyan.port, "GET", "/x")
    wait_for("the first", lambda: states())
    assert set(states().values()) == {"unknown"} and banyan.api("/api/v1/proposals?route=r")[1]["proposals"] == [], "one control teaches nothing"

    def ask():
        send(banyan.port, "GET", f"/x?{legacy.count}")
        return evidence(banyan)["controls"] >= 35

    begun = time.monotonic()
    wait_for("35 controls", ask, seconds=40)
    assert time.monotonic() - begun > 34 / 5 - 1, "legacy is asked twice 5 times a second at most"
    found = states()
    assert found["$.price", "value"] == "real" and found["$.id", "value"] == found["$.tags", "order"] == "noise", found
    proposed = {it["path"]: it["rule"] for it in banyan.api("/api/v1/proposals?route=r")[1]["proposals"]}
    assert proposed["$.id"] == "uuid" and proposed["$.tags"] == "unordered" and "$.price" not in proposed and set(proposed) <= {"$.id", "$.tags", "$.at"}, proposed
    assert "proposed   $.id: uuid" in banyan.cli("show", "r").stdout
    patch = banyan.cli("show", "r", "--patch")
    assert patch.returncode == 0 and patch.stdout.startswith("# r:") and "$.id: uuid" in patch.stdout
    pinned = json.dumps({**proposed, "$.at": "timestamp(rfc3339, 5s)"})
    banyan.write_rules(text.replace("controls: 100%", f"controls: 0%, rules: {pinned}"))
    wait_for("the pinned rules", lambda: evidence(banyan)["compared"] == 0)
    for _ in range(10):
        send(banyan.port, "GET", "/x")
    told = settled(banyan, 10)
    assert states() == {("$.price", "value"): "unknown"} and told["mismatched"] == 10 and told["controls"] == 0, "what was pinned is quiet, what is real is not"
    assert banyan.cli("show", "r", "--patch").returncode == 2
    assert legacy.shadows >= 35, "controls carry the marker"


def test_evidence_outlives_the_process_and_no_value_reaches_the_disk(start, tmp_path):
    legacy, serverless = Changing(1234567), Changing(7654321)
    banyan = start(Banyan, rules(legacy.port, serverless.port))
    for n in range(20):
        send(banyan.port, "GET", f"/users/kim@example.com/{n}?token=topsecret")
    before = settled(banyan, 20)
    # Written once a second: the row of this hour with all of them.
    wait_for("all to be written", lambda: b'"mismatched":20' in (banyan.state / "evidence.redb").read_bytes())
    banyan.stop(signal.SIGKILL)
    kept = (banyan.state / "evidence.redb").read_bytes()
    for secret in (b"kim@", b"example.com", b"topsecret", b"1234567", b"7654321", b"0000-4000"):
        assert secret not in kept, secret
    assert b"$.price" in kept and b"email:" in kept and (banyan.state / "evidence.key").stat().st_mode & 0o777 == 0o600
    again = start(Again, banyan)
    told = evidence(again)
    for key in ("eligible", "sampled", "compared", "mismatched", "distinct_requests", "controls"):
        assert told[key] == before[key], (key, before, told)
    assert differences(again)["$.price", "value"] == 20
    example = next(it for it in again.api("/api/v1/differences?route=r")[1]["differences"] if it["path"] == "$.price")["examples"][0]
    assert example["method"] == "GET" and example["path"].startswith("/users/email:") and len(example["trace_id"]) == 32 and example["legacy"].startswith("number:")
    assert again.api("/api/v1/evidence/r?hours=1")[1]["compared"] == 20
    assert again.api("/api/v1/evidence/r?hours=x", check=False)[0] == 400
    send(again.port, "GET", "/users/1")
    wait_for("more", lambda: evidence(again)["compared"] == 21)


def test_writes_go_to_a_sandbox_that_has_proved_itself(start):
    legacy, plain = Changing(1), Changing(1)
    policy = "{sample: 100%, controls: 0%, policy: sandbox}"
    text = rules(legacy.port, plain.port, shadow=policy).replace("effects: safe", "effects: unsafe")
    refused = start(Banyan, text, wait=False)
    assert refused.popen.wait(20) == 1
    assert "shadow_handshake" in refused.text() and "X-Banyan-Shadow" in refused.text(), "a page that answers everything with 200 is no proof"
    port = lease_port()
    start(Nginx, f"""server {{ listen 127.0.0.1:{port}; location = /.well-known/banyan-shadow {{ add_header X-Banyan-Shadow sandbox; return 204; }}
      location / {{ proxy_pass http://127.0.0.1:{plain.port}; }} }}""", port=port)
    banyan = start(Banyan, text.replace(str(plain.port), str(port)))
    plain.shadows = 0
    assert send(banyan.port, "POST", "/orders", [], b"x=1").status == 200
    told = settled(banyan, 1)
    assert told["compared"] == 1 and told["dropped"] == 0
    assert (legacy.posts, plain.posts, plain.shadows) == (1, 1, 1), "the write went to both, once, and to the sandbox with the marker"


def test_a_write_is_verified_by_reading_both_sides_after_it(start):
    class Orders:
        def __init__(self, lost):
            self.lost, self.kept, self.posts = lost, {}, 0
            self.port = Origin(self.answer).port

        def answer(self, connection, data):
            method, path = data.split(b" ")[:2]
            if method == b"POST":
                self.posts += 1
                number = self.posts
                shared[str(number)] = {"id": number, "state": "NEW"}
                body, head = json.dumps({"order": {"id": number}}).encode(), b"HTTP/1.1 201 Created\r\nLocation: https://shop.example/orders/%d\r\n" % number
            else:
                found = shared.get(path.decode().rsplit("/", 1)[1])
                body = json.dumps({**found, "state": "LOST"} if self.lost and found else found).encode()
                head = b"HTTP/1.1 200 OK\r\n" if found else b"HTTP/1.1 404 No\r\n"
            connection.sendall(head + b"Connection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    for read in ("{location}", "/orders/{json.order.id}"):
        for lost in (False, True):
            shared = {}
            legacy, serverless = Orders(False), Orders(lost)
            shadow = f'{{sample: 100%, policy: verify_after_write, verify: {{read: "{read}", lag: 50ms}}}}'
            banyan = start(Banyan, rules(legacy.port, serverless.port, shadow=shadow).replace("effects: safe", "effects: unsafe"))
            for _ in range(3):
                assert send(banyan.port, "POST", "/orders", [("Content-Type", "application/json")], b"{}").status == 201
            told = settled(banyan, 3)
            assert (legacy.posts, serverless.posts) == (3, 0), "a write is never sent twice"
            assert (told["compared"], told["mismatched"]) == (3, 3 if lost else 0), told
            assert differences(banyan) == ({("$.state", "value"): 3} if lost else {})
            banyan.stop()
