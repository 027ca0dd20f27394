"""The airline's functions as real Lambda binaries, called through Banyan: under ministack, under cargo-lambda, streamed, and with the
cloud killed under load."""

import collections
import http.client
import json
import signal
import threading
import time

import pytest
from conftest import Airline, Banyan, header, wait_for
from emulators import FUNCTIONS, REGION, ROOT_KEY, CargoLambda, Instance, Ministack, StreamApi, environment, send

BINARY = bytes(range(256)) * 64
ENV = environment(ROOT_KEY)


def rules(endpoint, *functions, extra="", route=""):
    backends = "".join(f'  {name}: {{lambda: {{function: {name}, region: {REGION}, endpoint: "{endpoint}"{extra}}}}}\n' for name in functions)
    routes = "".join(f"  - {{id: {name}, match: {{prefix: /api/{path}}}, serverless: {name}, stage: serverless{route}}}\n" for name, path in (
        ("catalog", "flights"), ("booking", "bookings"), ("loyalty", "loyalty"), ("badge", "badge"), ("departures", "departures")) if name in functions)
    return f"version: 1\nbackends:\n{backends}routes:\n{routes}"


@pytest.fixture(params=["ministack", "cargo-lambda"])
def cloud(start, request, tmp_path):
    """An endpoint that has the airline's functions."""
    names = ("catalog", "booking", "loyalty", "badge")
    if request.param == "ministack":
        cloud = start(Ministack)
        for name in names:
            cloud.function(name, {"bootstrap": FUNCTIONS.read_bytes()}, runtime="provided.al2023", handler=name, env={"AIRLINE_LEDGER": str(tmp_path / "ledger")})
    else:
        cloud = start(CargoLambda, *names)
        for name in names:
            start(Instance, name, cloud.runtime_api(name), {"AIRLINE_LEDGER": str(tmp_path / "ledger")})
    return f"http://127.0.0.1:{cloud.port}", request.param


def test_the_airlines_functions_answer_as_their_urls_do(start, cloud, tmp_path):
    endpoint, kind = cloud
    airline = start(Airline)
    banyan = start(Banyan, rules(endpoint, "catalog", "booking", "loyalty", "badge"), env=ENV)
    for target in ("/api/flights?from=ICN&to=FRA", "/api/flights/BA010", "/api/flights/NONE", "/api/loyalty/M100"):
        name = "loyalty" if "loyalty" in target else "catalog"
        ours = send(banyan.port, "GET", target)
        theirs = send(airline.serverless, "GET", target, host=f"{name}.lambda-url.{REGION}.on.aws")
        assert ours.status == theirs.status and ours.header("content-type") == theirs.header("content-type"), (target, ours, theirs)
        mine, other = ours.json(), theirs.json()
        assert mine.pop("traceId", None) != "" and (mine.pop("traceId", None), other.pop("traceId", None)) and mine == other, target
    body = json.dumps({"flight": "BA010", "passenger": "Ada"}).encode()
    booked = send(banyan.port, "POST", "/api/bookings", [("Content-Type", "application/json"), ("Idempotency-Key", "k1")], body)
    assert booked.status == 201 and booked.header("location") == "/api/bookings/PNR00001", booked
    assert send(banyan.port, "GET", "/api/bookings/PNR00001").json()["passenger"] == "Ada"
    assert [json.loads(line)["key"] for line in (tmp_path / "ledger").read_text().splitlines()] == ["k1"]
    # Bytes both ways, and a cookie.
    for kind_of, sent in (("image/png", BINARY), ("text/plain", "ünïcode".encode()), ("application/octet-stream", b"\0")):
        badge = send(banyan.port, "POST", "/api/badge", [("Content-Type", kind_of)], sent)
        assert (badge.status, badge.body, badge.header("content-type")) == (200, sent, kind_of), badge
        assert badge.all("set-cookie") == ["badge=1; Path=/"]
    # cargo-lambda answers 500 where AWS answers 200 with X-Amz-Function-Error; both are a failure of the function's side.
    failed = send(banyan.port, "GET", "/api/flights/BA010", [("X-Airline-Fail", "1")])
    assert failed.status == 502 and b"asked to fail" not in failed.body
    banyan.counts(1, "banyan_lambda_errors_total", code="function_error" if kind == "ministack" else "lambda_service")


def lines_as_they_come(port, target, headers=()):
    """The status, headers and (seconds, line) pairs of a streamed answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    begun = time.monotonic()
    connection.request("GET", target, headers=dict(headers))
    answer = connection.getresponse()
    lines = []
    while line := answer.readline():
        lines.append((time.monotonic() - begun, line.decode()))
    connection.close()
    return answer, lines


@pytest.mark.parametrize("way", ["invoke", "function-url"])
def test_a_streamed_answer_comes_line_by_line(start, way):
    if way == "invoke":
        api = start(StreamApi)
        start(Instance, "departures", f"http://127.0.0.1:{api.port}/departures")
        text = rules(f"http://127.0.0.1:{api.port}", "departures", extra=", stream: true, log_tail: true")
    else:
        api = start(CargoLambda, "departures")
        start(Instance, "departures", api.runtime_api("departures"))
        text = (f'version: 1\nbackends: {{departures: {{urls: ["http://127.0.0.1:{api.port}"], path_prefix: /lambda-url/departures}}}}\n'
                "routes: [{id: departures, match: {prefix: /api/departures}, serverless: departures, stage: serverless}]\n")
    banyan = start(Banyan, text, env=ENV)
    answer, lines = lines_as_they_come(banyan.port, "/api/departures?from=ICN")
    assert answer.status == 200 and answer.getheader("content-type") == "text/plain; charset=utf-8"
    assert answer.getheader("set-cookie") == "seen=departures" and len(lines) == 21, lines
    # The function sends a line each 20 ms: what is collected first would come at once.
    times = [seconds for seconds, _ in lines]
    assert times[-1] - times[0] > 0.2, times
    head = send(banyan.port, "HEAD", "/api/departures?from=ICN")
    assert (head.status, head.body) == (200, b"")
    banyan.counts(2, "banyan_requests_total", route="departures", code="200")
    if way == "invoke":
        assert api.authorization.startswith("AWS4-HMAC-SHA256 Credential=test/")
        wait_for("the report", lambda: banyan.metric("banyan_lambda_billed_seconds_count", route="departures"))


def test_a_stream_that_fails_is_cut_and_never_looks_complete(start):
    api = start(StreamApi)
    start(Instance, "departures", f"http://127.0.0.1:{api.port}/departures")
    banyan = start(Banyan, rules(f"http://127.0.0.1:{api.port}", "departures", extra=", stream: true"), env=ENV)
    assert send(banyan.port, "GET", "/api/departures?from=ICN&fail=start").status == 502
    banyan.counts(1, "banyan_lambda_errors_total", code="function_error")
    with pytest.raises(http.client.IncompleteRead):
        send(banyan.port, "GET", "/api/departures?from=ICN&fail=middle")
    banyan.counts(2, "banyan_lambda_errors_total", code="function_error")
    line = banyan.log_lines(1, lambda line: line.get("cause") == "function_error" and line["http.response.status_code"] == 200)[0]
    assert line["http.response.body.size"] > 0
    assert send(banyan.port, "GET", "/api/departures?from=ICN").status == 200


def test_the_cloud_is_killed_under_load_and_no_read_fails_and_no_write_runs_twice(start, tmp_path):
    airline, cloud = start(Airline), start(Ministack)
    ledger = tmp_path / "functions-ledger"
    for name in ("catalog", "booking"):
        cloud.function(name, {"bootstrap": FUNCTIONS.read_bytes()}, runtime="provided.al2023", handler=name, env={"AIRLINE_LEDGER": str(ledger)})
    text = rules(cloud.url, "catalog", "booking", route=", legacy: monolith, fallback: {to: legacy, on: [connect, timeout, 429, 502, 503, 504], within: 10s}")
    text = text.replace("backends:\n", f'backends:\n  monolith: {{urls: ["http://127.0.0.1:{airline.legacy}"]}}\n', 1)
    banyan = start(Banyan, text, env=ENV)
    done = threading.Event()
    reads, writes, problems = collections.Counter(), {}, []

    def guarded(work):
        try:
            work()
        except Exception as error:  # noqa: BLE001
            problems.append(repr(error))

    def read(worker):
        while not done.is_set():
            answer = send(banyan.port, "GET", "/api/flights/BA010")
            reads[answer.status, "fallback" in (header(answer.headers, "x-banyan") or "")] += 1

    def write(worker):
        number = 0
        while not done.is_set():
            key = f"{worker}-{number}"
            number += 1
            body = json.dumps({"flight": "BA010", "passenger": key}).encode()
            writes[key] = send(banyan.port, "POST", "/api/bookings", [("Content-Type", "application/json"), ("Idempotency-Key", key)], body).status

    threads = [threading.Thread(target=guarded, args=(lambda work=work, worker=worker: work(worker),)) for worker in range(3) for work in (read, write)]
    for thread in threads:
        thread.start()
    wait_for("functions to answer", lambda: reads[200, False] > 30 and sum(status == 201 for status in writes.values()) > 30, seconds=60)
    # Gone in the middle of calls, without a goodbye; its functions with it.
    cloud.popen.send_signal(signal.SIGKILL)
    cloud.popen.wait()
    wait_for("legacy to answer", lambda: reads[200, True] > 100, seconds=60)
    done.set()
    for thread in threads:
        thread.join(30)
    assert not problems, problems[:3]
    assert set(status for status, _ in reads) == {200}, reads
    # Writes that were under way fail cleanly; none is sent to the other side after a byte of it was sent.
    assert set(writes.values()) <= {201, 502, 504}, collections.Counter(writes.values())
    ran = collections.Counter(json.loads(line)["key"] for line in ledger.read_text().splitlines())
    ran += collections.Counter(entry["key"] for entry in airline.ledger()["entries"] if entry["key"])
    assert all(count == 1 for count in ran.values()), [key for key, count in ran.items() if count > 1]
    assert all(ran[key] == 1 for key, status in writes.items() if status == 201)
    failed = sum(status != 201 for status in writes.values())
    assert failed <= 3 * 2, "only writes that were under way may fail"
    print(f"{sum(reads.values())} reads, {len(writes)} writes, {failed} of them failed, {len(ran)} executed")
