"""What others are told of requests: traces in both forms, spans to a collector, exemplars, embedded metrics, taps; and what a collector in trouble does to
requests, which is nothing."""

import fcntl
import hashlib
import http.server
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import termios
import threading
import time
import urllib.request

import pytest
from conftest import BANYAN, Banyan, Nginx, curl, lease_port, needs, wait_for
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.openmetrics import parser

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
ROOT = "Root=1-5759e988-bd862e3fe1be46a994272793"
OTHERS = "Lineage=a87bd80c:1|68fd508a:5|c512fbe3:2;Self=1-67891234-12456789abcdef012345678"


class Server:
    """Keeps every request's path, headers and body; `answer` says what it gets."""

    def __init__(self, answer=lambda path: 200):
        seen = self.seen = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                seen.append((self.path, dict(self.headers.items()), body))
                status = answer(self.path)
                self.send_response(status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            do_POST = do_GET

            def log_message(self, *_):
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            def handle_error(self, *_):
                pass

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def of(self, path):
        return [(headers, body) for seen, headers, body in self.seen if seen == path]


@pytest.fixture
def backends():
    made = Server(lambda path: 503 if path.startswith("/bad") else 200), Server()
    yield made
    [it.server.shutdown() for it in made]


def rules(legacy, serverless, more=""):
    return f"""version: 1
backends: {{old: {{urls: ["http://127.0.0.1:{legacy}"]}}, new: {{urls: ["http://127.0.0.1:{serverless}"]}}}}
routes:
  - {{id: plain, match: {{prefix: /}}, legacy: old}}
  - {{id: copied-all, match: {{prefix: /copied}}, legacy: old, serverless: new, stage: shadow, effects: safe, shadow: {{sample: 100%, controls: 0%}}}}
{more}"""


def xray(text):
    return dict(part.split("=", 1) for part in text.split(";"))


def test_a_trace_goes_on_in_both_forms_and_what_else_aws_put_there_is_kept(start, backends):
    old, new = backends
    banyan = start(Banyan, rules(old.port, new.port))

    def sent(path, *headers):
        curl(*[item for header in headers for item in ("-H", header)], f"{banyan.url}{path}")
        got = {name.lower(): value for name, value in old.of(path)[0][0].items()}
        line = banyan.log_lines(where=lambda line: line["url.path"] == path)[0]
        return got, line

    # A client of ours: continued, and told to AWS.
    got, line = sent("/w3c", f"traceparent: {PARENT}", "tracestate: vendor=1")
    version, trace, span, flags = got["traceparent"].split("-")
    assert (version, trace, flags, got["tracestate"]) == ("00", PARENT[3:35], "01", "vendor=1") and span != PARENT[36:52]
    assert xray(got["x-amzn-trace-id"]) == {"Root": "1-4bf92f35-77b34da6a3ce929d0e0e4736", "Parent": span, "Sampled": "1"}
    assert (line["trace_id"], line["span_id"]) == (trace, span)
    # A load balancer of AWS: its root is the trace.
    got, line = sent("/aws", f"X-Amzn-Trace-Id: {ROOT};Parent=53995c3f42cd8ad8;Sampled=1;{OTHERS}", "tracestate: nobody=1")
    span = got["traceparent"].split("-")[2]
    assert got["traceparent"] == f"00-5759e988bd862e3fe1be46a994272793-{span}-01" and "tracestate" not in got
    assert got["x-amzn-trace-id"] == f"{ROOT};Parent={span};Sampled=1;{OTHERS}" and line["trace_id"] == "5759e988bd862e3fe1be46a994272793"
    # Both: each goes on as its own, under one span of ours.
    got, line = sent("/both", f"traceparent: {PARENT}", f"X-Amzn-Trace-Id: {ROOT};{OTHERS}")
    span = got["traceparent"].split("-")[2]
    assert got["x-amzn-trace-id"] == f"{ROOT};Parent={span};Sampled=1;{OTHERS}" and line["trace_id"] == PARENT[3:35]
    # Neither, or nonsense: a trace of ours, which X-Ray takes for it begins with the time.
    for path, *headers in (("/none",), ("/odd", "traceparent: 00-xyz", "X-Amzn-Trace-Id: Root=odd")):
        got, line = sent(path, *headers)
        trace = got["traceparent"].split("-")[1]
        assert abs(int(trace[:8], 16) - time.time()) < 60 and xray(got["x-amzn-trace-id"])["Root"] == f"1-{trace[:8]}-{trace[8:]}" and line["trace_id"] == trace


def test_a_shadow_is_a_child_with_a_span_of_its_own(start, backends):
    old, new = backends
    banyan = start(Banyan, rules(old.port, new.port))
    curl("-H", f"traceparent: {PARENT}", f"{banyan.url}/copied/1")
    copy = wait_for("the copy", lambda: new.of("/copied/1"))[0][0]
    line = banyan.log_lines(where=lambda line: line["url.path"] == "/copied/1")[0]
    _, trace, span, _ = copy["traceparent"].split("-")
    assert trace == PARENT[3:35] == line["trace_id"] and span == line["shadow_id"] != line["span_id"]


def spans(collector):
    """All that were sent, read by the protocol's own definition; a field that it does not know is an error."""
    found = []
    for _, _, body in list(collector.seen):
        request = json_format.Parse(body, ExportTraceServiceRequest())
        for resource in request.resource_spans:
            assert {it.key: it.value.string_value for it in resource.resource.attributes}["service.name"] == "banyan"
            found += [span for scope in resource.scope_spans for span in scope.spans]
    return found


def test_spans_reach_a_collector_as_the_protocol_says(start, backends):
    old, new = backends
    collector = Server()
    banyan = start(Banyan, rules(old.port, new.port), f"version: 1\ntracing: {{otlp: 'http://127.0.0.1:{collector.port}', sample: 0%}}\n")
    curl("-H", f"traceparent: {PARENT}", "-H", "tracestate: vendor=1", f"{banyan.url}/copied/2?secret=1")
    curl(f"{banyan.url}/unsampled")
    curl(f"{banyan.url}/bad")
    found = wait_for("three spans", lambda: spans(collector) if len(spans(collector)) >= 3 else None)
    assert {path for path, _, _ in collector.seen} == {"/v1/traces"} and len(found) == 3
    by_name = {span.name: span for span in found}
    live, shadow, failed = by_name["GET copied-all"], by_name["GET shadow copied-all"], by_name["GET plain"]
    # JSON holds ids in hex, which the parser takes for base64: the lengths tell.
    assert live.trace_id == shadow.trace_id != failed.trace_id and live.kind == 2 and shadow.kind == 3
    assert shadow.parent_span_id == live.span_id == shadow.links[0].span_id != shadow.span_id
    attributes = {it.key: it.value.string_value or it.value.int_value for it in live.attributes}
    assert attributes["url.path"] == "/copied/2" and attributes["banyan.side"] == "legacy" and attributes["http.response.status_code"] == 200
    assert live.trace_state == "vendor=1" and not failed.trace_state
    assert live.end_time_unix_nano >= live.start_time_unix_nano > 1_600_000_000 * 10**9
    # Failures are told whatever the sample; so far as a collector is concerned they are errors.
    assert failed.status.code == 2 and live.status.code == 0 and "secret" not in str(found)


def test_the_last_spans_of_a_drain_are_sent_and_none_is_larger_than_it_may_be(start, backends):
    old, new = backends
    collector = Server()
    banyan = start(Banyan, rules(old.port, new.port), f"version: 1\ntracing: {{otlp: 'http://127.0.0.1:{collector.port}', sample: 0%}}\ndrain: {{delay: 100ms}}\n")
    curl("-H", f"traceparent: {PARENT}", f"{banyan.url}/long/{'x' * 30_000}")
    assert banyan.stop() == 0
    (span,) = spans(collector)
    (path,) = [it.value.string_value for it in span.attributes if it.key == "url.path"]
    assert len(path) == 2_048 and path.startswith("/long/xxx")
    assert len(banyan.log_lines(1)[0]["url.path"]) == 2_048


def test_a_token_that_is_taken_back_ends_what_it_watches(start, backends, tmp_path):
    old, new = backends
    entry = lambda name: f"  - {{name: {name}, role: operator, sha256: {hashlib.sha256(f'token-of-{name}-0123456789'.encode()).hexdigest()}}}\n"
    (tmp_path / "tokens.yaml").write_text("version: 1\ntokens:\n" + entry("kim") + entry("lee"))
    banyan = start(Banyan, rules(old.port, new.port), f"version: 1\nadmin: {{tokens: {tmp_path}/tokens.yaml}}\n")
    watching = {}
    for name in ("kim", "lee"):
        request = urllib.request.Request(f"http://127.0.0.1:{banyan.admin}/api/v1/events", headers={"Authorization": f"Bearer token-of-{name}-0123456789"})
        watching[name] = urllib.request.urlopen(request, timeout=10)
        assert watching[name].readline().startswith(b"id: ")
    (tmp_path / "tokens.yaml").write_text("version: 1\ntokens:\n" + entry("lee"))
    banyan.popen.send_signal(signal.SIGHUP)
    # The one ends, which reading to its end waits for; the other goes on.
    assert watching["kim"].read().endswith(b"}\n\n")
    assert any(watching["lee"].readline().startswith(b"id: ") for _ in range(12))
    watching["lee"].close()


class Silent:
    """Takes connections, and says nothing."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.socket.getsockname()[1]
        self.kept = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                self.kept.append(self.socket.accept())
            except OSError:
                return


def load(url, count, path="/"):
    needs("h2load")
    out = subprocess.run(["h2load", "--h1", "-t1", "-c16", f"-n{count}", f"{url}{path}"], capture_output=True, text=True, timeout=120).stdout
    answered = re.search(r"(\d+) succeeded, (\d+) failed", out)
    return int(answered[1]), int(answered[2])


@pytest.mark.parametrize("trouble", ["down", "silent", "full"])
def test_a_collector_in_trouble_slows_nothing_and_costs_no_memory(start, trouble):
    port = lease_port()
    start(Nginx, f"server {{ listen 127.0.0.1:{port}; location / {{ return 200 ok; }} }}", port=port)
    collector = {"down": lambda: None, "silent": Silent, "full": lambda: Server(lambda path: 503)}[trouble]()
    otlp = collector.port if collector else lease_port()
    text = rules(port, port)
    settings = "version: 1\nthreads: 1\nlogs: {access: off}\n"
    without = start(Banyan, text, settings)
    banyan = start(Banyan, text, settings + f"tracing: {{otlp: 'http://127.0.0.1:{otlp}', sample: 100%}}\n")
    for it in (without, banyan):
        assert load(it.url, 3_000) == (3_000, 0)
    before = banyan.rss_kib()
    took = {}
    for it in (without, banyan, without, banyan):
        begun = time.monotonic()
        assert load(it.url, 10_000) == (10_000, 0)
        took.setdefault(it.port, []).append(time.monotonic() - begun)
    lost = sum(banyan.metric("banyan_spans_total", result=word) or 0 for word in ("dropped", "failed"))
    grown = banyan.rss_kib() - before
    print(f"collector {trouble}: {lost:.0f} of 23,000 spans lost, {grown} KiB more, {min(took[banyan.port]):.2f} s for 10,000 requests, without one {min(took[without.port]):.2f} s")
    assert lost > 15_000 and not banyan.metric("banyan_spans_total", result="sent")
    # The queue holds 2,048 spans, a batch 512 and its text: under 4 MiB; and a debug binary's spans cost what they cost, not what a time-out would (10 s).
    assert grown < 16 << 10 and min(took[banyan.port]) < 3 * min(took[without.port]) + 1, (grown, took)


def test_openmetrics_has_the_traces_of_the_slow_and_the_failed(start, backends):
    old, new = backends
    banyan = start(Banyan, rules(old.port, new.port))
    curl("-H", f"traceparent: {PARENT}", f"{banyan.url}/bad")
    curl(f"{banyan.url}/good")
    banyan.counts(2, "banyan_requests_total", route="plain")
    status, text = banyan.api("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"})
    families = {family.name: family for family in parser.text_string_to_metric_families(text)}
    failed = [sample for sample in families["banyan_requests"].samples if sample.labels["code"] == "503"]
    assert [sample.exemplar.labels["trace_id"] for sample in failed] == [PARENT[3:35]]
    ids = [sample.exemplar.labels["trace_id"] for sample in families["banyan_request_duration_seconds"].samples if sample.exemplar]
    assert ids and PARENT[3:35] in ids and families["banyan_request_duration_seconds"].type == "histogram"
    assert text.endswith("# EOF\n")
    # What Prometheus's other format says is the same, and promtool has nothing to say about it.
    plain = banyan.api("/metrics")[1]
    assert "# EOF" not in plain and subprocess.run(["promtool", "check", "metrics"], input=plain, text=True, capture_output=True).returncode == 0
    names = {line.split()[2] for line in plain.splitlines() if line.startswith("# TYPE")}
    assert {name.removesuffix("_total") for name in names} == {name for name in families}


def test_embedded_metrics_are_one_object_for_each_route_and_period(start, backends, tmp_path):
    old, new = backends
    path = tmp_path / "emf.log"
    banyan = start(Banyan, rules(old.port, new.port), f"version: 1\nlogs: {{access: off, emf: {{to: {path}, every: 1s, namespace: Bank}}}}\n")
    for _ in range(3):
        curl(f"{banyan.url}/one")
    curl(f"{banyan.url}/bad")
    lines = wait_for("a line", lambda: [json.loads(line) for line in path.read_text().splitlines()])
    total = lambda name: sum(line.get(name, 0) for line in [json.loads(line) for line in path.read_text().splitlines()])
    wait_for("all requests", lambda: total("LegacyRequests") == 4)
    assert total("LegacyFailures") == 1 and {line["route"] for line in lines} == {"plain"}
    for line in lines:
        (directive,) = line["_aws"]["CloudWatchMetrics"]
        assert directive["Namespace"] == "Bank" and directive["Dimensions"] == [["route"]] and abs(line["_aws"]["Timestamp"] / 1000 - time.time()) < 60
        assert all(isinstance(line[metric["Name"]], (int, float)) for metric in directive["Metrics"])
    assert "ServerlessRequests" not in lines[0]


def test_a_sample_keeps_every_failure(start, backends):
    old, new = backends
    banyan = start(Banyan, rules(old.port, new.port), "version: 1\nlogs: {sample: 0%}\n")
    for path in ("/good", "/bad", "/good", "/%2e%2e/x", "/bad"):
        curl("--path-as-is", f"{banyan.url}{path}")
    assert sorted(line["http.response.status_code"] for line in banyan.log_lines(3)) == [400, 503, 503]


def test_a_tap_shows_what_is_asked_for_as_it_happens(start, backends):
    old, new = backends
    banyan = start(Banyan, rules(old.port, new.port), "version: 1\nlogs: {access: off}\n")
    over = threading.Event()

    def traffic():
        while not over.is_set():
            for path in ("/good?secret=1", "/bad", "/copied/1"):
                curl(f"{banyan.url}{path}")

    thread = threading.Thread(target=traffic)
    thread.start()
    try:
        out = banyan.cli("tap", "--status", "5xx", "--count", "3", "--output", "json")
        lines = [json.loads(line) for line in out.stdout.splitlines()]
        assert out.returncode == 0 and [line["http.response.status_code"] for line in lines] == [503] * 3 and "secret" not in out.stdout
        out = banyan.cli("tap", "--route", "copied-all", "--side", "legacy", "--count", "2")
        assert out.returncode == 0 and len(out.stdout.splitlines()) == 2 and all(" copied-all legacy stage " in line for line in out.stdout.splitlines()), out.stdout
    finally:
        over.set()
        thread.join()
    wait_for("the taps to be closed", lambda: banyan.metric("banyan_taps") == 0)
    unknown = banyan.cli("tap", "--route", "nobody")
    assert unknown.returncode == 1 and "no such route: nobody" in unknown.stderr
    assert banyan.cli("tap", "--status", "6xx").returncode == 64 and banyan.cli("tap", "--side", "both").returncode == 64
    assert subprocess.run([BANYAN, "tap", "--admin", f"http://127.0.0.1:{lease_port()}"], capture_output=True).returncode == 3


def test_top_is_a_table_in_a_pipe_and_a_screen_on_a_terminal(start, backends):
    old, new = backends
    banyan = start(Banyan, rules(old.port, new.port))
    out = banyan.cli("top")
    assert out.returncode == 0 and re.search(r"^copied-all +shadow +0%", out.stdout, re.M), out.stdout
    assert banyan.cli("top", "--output", "json").stdout.startswith("{")
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 140, 0, 0))
    process = subprocess.Popen([BANYAN, "top", "--admin", f"http://127.0.0.1:{banyan.admin}"], stdin=follower, stdout=follower, stderr=follower, env={**os.environ, "TERM": "xterm"}, start_new_session=True)
    os.close(follower)
    shown = b""

    def reads(*words):
        nonlocal shown
        # The cursor is moved between words.
        while not all(it in shown for it in words):
            shown += os.read(leader, 4096)

    reader = threading.Thread(target=reads, args=(b"copied-all", b"plain", b"quit", b"routes"), daemon=True)
    reader.start()
    reader.join(15)
    assert not reader.is_alive(), shown[-500:]
    os.write(leader, b"q")
    assert process.wait(10) == 0
    os.close(leader)


def test_the_streams_end_with_their_count_and_are_bounded(start, backends):
    old, new = backends
    banyan = start(Banyan, rules(old.port, new.port))
    with urllib.request.urlopen(f"http://127.0.0.1:{banyan.admin}/api/v1/events?count=2", timeout=10) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        events = [block for block in answer.read().decode().split("\n\n") if block]
    assert len(events) == 2 and all(event.split("\n")[1] == "event: snapshot" for event in events)
    snapshot = json.loads(events[0].split("\ndata: ")[1])
    assert {it["id"] for it in snapshot["routes"]} >= {"plain", "copied-all"} and snapshot["revision"]["revision"] == banyan.revision()
    # A client of old times gets no chunks.
    with socket.create_connection(("127.0.0.1", banyan.admin), timeout=10) as old_client:
        old_client.sendall(b"GET /api/v1/events?count=1 HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
        said = b"".join(iter(lambda: old_client.recv(65536), b""))
    head, _, body = said.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower() and body.startswith(b"id: ") and body.endswith(b"}\n\n")
    assert banyan.api("/api/v1/events?count=x", check=False)[0] == 400 and banyan.api("/api/v1/tap?status=x", check=False)[0] == 400
    taps = [urllib.request.urlopen(f"http://127.0.0.1:{banyan.admin}/api/v1/tap", timeout=10) for _ in range(8)]
    assert banyan.api("/api/v1/tap", check=False)[0] == 503
    [tap.close() for tap in taps]
    wait_for("room again", lambda: banyan.metric("banyan_taps") == 0)


MANY = "version: 1\nbackends: {{old: {{urls: [\"http://127.0.0.1:{port}\"]}}, new: {{urls: [\"http://127.0.0.1:{port}\"]}}}}\nroutes:\n{routes}"


def many(port, count):
    one = '  - {{id: route-{n:04}, match: {{prefix: "/r{n}"}}, legacy: old, serverless: new, stage: canary, share: 50%, effects: safe, shadow: {{sample: 100%}}, cohort: c}}\n'
    return MANY.format(port=port, routes="".join(one.format(n=n) for n in range(count))) + "cohorts: {c: {key: [header.X-User]}}\n"


def test_five_hundred_routes_on_both_sides_are_under_thirty_thousand_series(start):
    port = lease_port()
    start(Nginx, f"server {{ listen 127.0.0.1:{port}; location / {{ return 200 ok; }} }}", port=port)
    banyan = start(Banyan, many(port, 500), "version: 1\nlogs: {access: off}\n")
    # Both sides of every route, and no more at a time than shadows keep up with.
    for user in range(12):
        config = "next\n".join(f'url = "{banyan.url}/r{n}/x"\nheader = "X-User: {user}"\noutput = "/dev/null"\n' for n in range(500))
        assert subprocess.run(["curl", "-s", "-K", "-"], input=config, text=True, timeout=120).returncode == 0
        wait_for("the copies", lambda: sum(banyan.metric(name) or 0 for name in ("banyan_comparisons_total", "banyan_shadow_dropped_total")) == 500 * (user + 1), seconds=60)
    assert banyan.metric("banyan_requests_total") == 6_000 and banyan.metric("banyan_comparisons_total") > 4_000
    times = []
    for _ in range(5):
        begun = time.monotonic()
        text = banyan.api("/metrics")[1]
        times.append(time.monotonic() - begun)
    series = [line for line in text.splitlines() if line and not line.startswith("#")]
    sides = {re.search(r'route="(.*?)",side="(.*?)"', line).groups() for line in series if line.startswith("banyan_requests_total")}
    print(f"500 routes: {len(series)} series, {len(text)} bytes, a scrape takes {min(times) * 1000:.0f} ms (debug build: {'debug' in str(BANYAN)})")
    assert len(sides) == 1_000 and len(series) < 30_000
    assert min(times) < 0.1, times
