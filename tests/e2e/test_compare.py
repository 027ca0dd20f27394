"""Test runs: what a browser, GoReplay, nginx and people with curl have recorded, asked of both sides; verdicts, exit codes, reports."""

import http.server
import json
import pathlib
import subprocess
import threading
import time
import xml.etree.ElementTree as ElementTree

import pytest
from conftest import BANYAN, ROOT, Airline, Banyan, Nginx, curl, lease_port
from emulators import send
from test_protocols import Origin

BROWSER = ROOT / "tests/browser"
CHROMIUM = "chromium"


def chromium():
    return subprocess.run(["which", CHROMIUM], capture_output=True, text=True, check=True).stdout.strip()


def node(script, *args):
    out = subprocess.run(["node", BROWSER / script, chromium(), *map(str, args)], capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stderr
    return out.stdout


def compare(*args):
    return subprocess.run([BANYAN, "compare", *map(str, args)], capture_output=True, text=True, timeout=120)


def run(tmp_path, source, *args):
    """Exit code and report of a run."""
    out = compare("run", "--in", source, "--json", tmp_path / "report.json", *args)
    assert out.returncode in (0, 1, 2, 3), (out.returncode, out.stderr)
    return out.returncode, json.loads((tmp_path / "report.json").read_text())


@pytest.fixture
def sides(start):
    """The monolith alone, and all functions behind a Banyan that sends everything to them."""
    airline = start(Airline)
    text = airline.rules().split("tests:")[0]
    for stage in ("canary\n    share: 50%", "canary\n    share: 25%", "canary\n    share: 10%", "shadow"):
        text = text.replace(f"stage: {stage}\n", "stage: serverless\n")
    lines = [line for line in text.splitlines() if "shadow: {sample" not in line]
    proxy = start(Banyan, "\n".join(lines))
    return airline, f"http://127.0.0.1:{airline.legacy}", proxy.url


def kinds(report):
    return {(it["path"], it["kind"]): it["count"] for it in report["differences"]}


def test_what_a_browser_has_recorded_is_compared_and_reported(sides, tmp_path):
    airline, legacy, serverless = sides
    har = tmp_path / "browser.har"
    flights = int(node("har.mjs", legacy, har))
    assert flights == 3 and json.loads(har.read_text())["log"]["creator"]["name"] == "Playwright"
    files = {kind: tmp_path / f"report.{kind}" for kind in ("junit", "markdown", "html")}
    args = [item for kind, path in files.items() for item in (f"--{kind}", path)]
    code, report = run(tmp_path, har, "--legacy", legacy, "--serverless", serverless, "--host", "air.example", "--seed", 7, "--save", tmp_path / "saved.jsonl", *args)
    assert (code, report["verdict"], report["exit_code"], report["mode"]) == (1, "REGRESSION", 1, "live-live")
    found = kinds(report)
    # The time in the footer is noise that nobody has asked about yet.
    # Two answers of the same second have none.
    assert found.pop(("/html/body/footer", "value"), 1) == 1
    assert found == {
        ("$.flights[].price", "type"): 1, ("$.traceId", "extra"): 4, ("$.price", "type"): 3, ("/html/head/title", "value"): 1, ("/html/body/h1", "value"): 1,
        ("header.content-type", "charset"): 1, ("/html/head/meta/@charset", "value"): 1,
    }
    assert report["skipped"] == {"not safe": 1} and report["compared"] == 19, report
    assert report["input"]["format"] == "har" and len(report["input"]["sha256"]) == 64 and report["seed"] == 7 and len(report["config_sha256"]) == 64
    writes = airline.ledger()["entries"]
    assert sum(entry["what"] == "POST /api/bookings" for entry in writes) == 1, "the write was the browser's own"

    suite = ElementTree.parse(files["junit"]).getroot().find("testsuite")
    assert int(suite.get("failures")) == len(suite.findall("testcase/failure")) == 7 and int(suite.get("tests")) == len(suite.findall("testcase"))
    assert "REGRESSION" in files["markdown"].read_text() and "`$.price`" in files["markdown"].read_text()
    # Nothing of a person: the page shows shapes and pseudonyms.
    for path in [*files.values(), tmp_path / "report.json"]:
        assert "member-3" not in path.read_text() and "232.7" not in path.read_text(), path

    seen = json.loads(node("report.mjs", files["html"], tmp_path / "page.png"))
    assert seen["problems"] == [] and seen["requests"] == [files["html"].as_uri()], "one file, and nothing else is asked for"
    assert seen["title"].startswith("REGRESSION") and len(seen["all"]["shown"]) == len(report["differences"]) and seen["all"]["rows"] == 19
    assert seen["nothing"]["shown"] == [] and seen["nothing"]["rows"] == 0
    assert len(seen["kind"]["shown"]) < len(seen["all"]["shown"]) and seen["kind"]["shown"]
    assert seen["pair"][0]["lines"] == seen["pair"][1]["lines"] > 3 and any(half["changed"] for half in seen["pair"])
    assert seen["dark"]["back"] != seen["all"]["back"] and seen["width"] and seen["narrow"]

    # The same answers under other rules, without a request; and what was saved can be shown.
    ignored = [item for path in ("json:$.traceId", "json:$.price", "json:$.flights[].price", "html:/html/head/title", "html:/html/body/h1", "header.content-type",
                                 "html:/html/head/meta/@charset", "html:/html/body/footer") for item in ("--ignore", path)]
    before = airline.ledger()["writes"]
    out = compare("rescore", tmp_path / "saved.jsonl", "--parity", "85% at 95%", *ignored)
    assert out.returncode == 0 and "PASS" in out.stdout, (out.stdout, out.stderr)
    assert compare("rescore", tmp_path / "saved.jsonl", *ignored).returncode == 2, "19 prove no 99 %"
    assert compare("show", tmp_path / "report.json").stdout.startswith("verdict      REGRESSION") and "$.price" in compare("show", tmp_path / "saved.jsonl").stdout
    again = compare("report", tmp_path / "report.json", "--html", tmp_path / "again.html")
    assert again.returncode == 0 and (tmp_path / "again.html").read_text() == files["html"].read_text()
    assert (tmp_path / "saved.jsonl").stat().st_mode & 0o777 == 0o600
    assert airline.ledger()["writes"] == before
    # What the browser saw, beside what serverless says now.
    code, report = run(tmp_path, har, "--serverless", serverless, "--host", "air.example")
    assert report["mode"] == "recorded-live" and report["compared"] == 19 and ("$.price", "type") in kinds(report), report["reasons"]


def gor(requests):
    """A file of GoReplay: requests with their original responses."""
    parts = []
    for number, (request, response) in enumerate(requests):
        ident = f"{number:040x}"
        parts.append(f"1 {ident} {1_700_000_000_000_000_000 + number * 1_000_000} 0\n".encode() + request)
        if response:
            parts.append(f"2 {ident} {1_700_000_000_000_000_000 + number * 1_000_000} 1000\n".encode() + response)
    return b"".join(part + "\n🐵🙈🙉\n".encode() for part in parts)


def test_a_goreplay_file_is_asked_and_its_answers_are_compared(sides, tmp_path):
    _, legacy, serverless = sides
    asked = [(f"GET /api/loyalty/m{n} HTTP/1.1\r\nHost: x\r\nCookie: SESSIONID=s{n}\r\n\r\n".encode(), None) for n in range(40)]
    (tmp_path / "a.gor").write_bytes(gor(asked))
    common = ["--legacy", legacy, "--serverless", serverless, "--host", "air.example"]
    code, report = run(tmp_path, tmp_path / "a.gor", *common, "--parity", "90% at 95%")
    assert (code, report["verdict"]) == (0, "PASS") and report["compared"] == 40 and report["upper_bound"] < 0.1, report["reasons"]
    # The same is not enough for more.
    code, report = run(tmp_path, tmp_path / "a.gor", *common)
    assert (code, report["verdict"]) == (2, "NOT_ENOUGH_EVIDENCE") and "299" in report["reasons"][1]
    # GOLD begins a point too late.
    bug = [(b"GET /api/loyalty/member-12382 HTTP/1.1\r\nHost: x\r\n\r\n", None)]
    (tmp_path / "b.gor").write_bytes(gor(asked + bug))
    code, report = run(tmp_path, tmp_path / "b.gor", *common, "--parity", "90% at 95%", "--values", "raw")
    assert kinds(report) == {("$.tier", "value"): 1} and report["differences"][0]["legacy"] == "GOLD" and report["differences"][0]["serverless"] == "SILVER"
    assert code == 1, "1 of 41 may be 11 %"
    # Recorded answers on both sides: nothing is asked.
    body = b'{"member":"m","points":1,"tier":"BLUE"}'
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    (tmp_path / "c.gor").write_bytes(gor([(asked[0][0], answer)]))
    code, report = run(tmp_path, tmp_path / "c.gor", "--serverless", serverless, "--host", "air.example")
    assert report["mode"] == "recorded-live" and {path for path, _ in kinds(report)} >= {"$.member", "$.points"}


def test_an_access_log_of_nginx_is_asked_for_what_it_can_say(start, sides, tmp_path):
    _, legacy, serverless = sides
    port = lease_port()
    log = tmp_path / "nginx.log"
    start(Nginx, f"server {{ listen 127.0.0.1:{port}; access_log {log} combined; location / {{ proxy_pass {legacy}; proxy_set_header Host air.example; }} }}", port=port)
    for n in range(3):
        curl(f"http://127.0.0.1:{port}/api/loyalty/m{n}?x=%20y")
    curl("-I", f"http://127.0.0.1:{port}/api/flights/BA010")
    curl("-d", "{}", f"http://127.0.0.1:{port}/api/payments")
    (log.parent / "more.log").write_text(log.read_text() + "this is no line of a log\n")
    out = compare("run", "--in", log.parent / "more.log", "--legacy", legacy, "--serverless", serverless, "--host", "air.example", "--output", "json", "--parity", "50% at 50%")
    report = json.loads(out.stdout)
    assert report["input"]["left_out"] == {"not GET or HEAD": 1, "not a line of an access log": 1} and "GET and HEAD" in out.stderr
    assert report["compared"] == 4 and out.returncode == 0, report["reasons"]
    # Our own log says the same.
    proxy = start(Banyan, f'version: 1\nbackends: {{a: {{urls: ["{legacy}"]}}}}\ndefaults: {{legacy: a}}\n')
    send(proxy.port, "GET", "/api/loyalty/m1")
    proxy.log_lines(1)
    (tmp_path / "own.log").write_bytes(proxy.access_path.read_bytes())
    code, report = run(tmp_path, tmp_path / "own.log", "--legacy", legacy, "--serverless", serverless, "--host", "air.example", "--parity", "1% at 1%")
    assert report["compared"] == 1 and report["exchanges"][0]["request"] == "GET /api/loyalty/m1" and code == 0


def test_what_cannot_be_reached_or_covered_is_not_a_verdict(sides, tmp_path):
    _, legacy, serverless = sides
    lines = tmp_path / "in.jsonl"
    lines.write_text("".join(json.dumps({"url": f"/api/loyalty/m{n}"}) + "\n" for n in range(5)))
    code, report = run(tmp_path, lines, "--legacy", legacy, "--serverless", f"http://127.0.0.1:{lease_port()}")
    assert (code, report["verdict"]) == (3, "INCONCLUSIVE") and report["unanswered"] == {"serverless": 5} and "serverless cannot be reached" in report["reasons"]
    assert compare("run", "--in", lines, "--legacy", legacy, "--serverless", "http://no.such.host.invalid:1").returncode == 3
    # Both sides fail: that is no parity, and no coverage.
    origin = Origin(lambda connection, data: connection.sendall(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"))
    code, report = run(tmp_path, lines, *[item for side in ("legacy", "serverless") for item in (f"--{side}", f"http://127.0.0.1:{origin.port}")])
    assert code == 3 and report["inconclusive"] == {"both_failed": 5} and "floor" in report["reasons"][0]
    for args, text in [
        (["--in", tmp_path / "none.har"], "none.har"), (["--in", lines, "--legacy", "ftp://x"], "not a URL"), (["--in", lines, "--pace", "often"], "not a pace"),
        (["--in", lines, "--ignore", "body"], "names nothing"), (["--in", lines, "--baseline"], "--legacy"), (["--in", lines, "--route", "r"], "--rules"),
    ]:
        out = compare("run", *args)
        assert out.returncode == 64 and text in out.stderr, (args, out.returncode, out.stderr)
    (tmp_path / "bad.jsonl").write_text('{"url": "/a"}\n{"url": "a b"}\n')
    out = compare("run", "--in", tmp_path / "bad.jsonl", "--legacy", legacy, "--serverless", serverless)
    assert out.returncode == 64 and "line 2" in out.stderr and "a b" in out.stderr


class Counter(http.server.BaseHTTPRequestHandler):
    """Answers with what changes by itself, and remembers what it was asked."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        with self.server.lock:
            self.server.count += 1
            number = self.server.count
            length = int(self.headers.get("content-length", 0))
            self.server.seen.append((self.command, self.path, self.headers.get("cookie"), self.rfile.read(length)))
        body = json.dumps({"id": f"{number:08x}-0000-4000-8000-{number * 7919:012x}", "path": self.path, "seq": 1000 + number}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Set-Cookie", f"sid={self.server.name}; Path=/")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *args):
        pass


def counter(name):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Counter)
    server.count, server.seen, server.lock, server.name = 0, [], threading.Lock(), name
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_noise_is_learned_by_a_baseline_and_writes_go_to_sandboxes_only(tmp_path):
    one, other = counter("one"), counter("other")
    other.count = 37
    urls = [f"http://127.0.0.1:{server.server_port}" for server in (one, other)]
    targets = ["--legacy", urls[0], "--serverless", urls[1]]
    lines = tmp_path / "in.jsonl"
    requests = [{"url": f"/p{n % 7}", "session": f"s{n % 3}", "at_ms": n} for n in range(60)]
    requests += [{"method": "POST", "url": "/w", "body": "x=1", "headers": {"Content-Type": "text/plain"}}]
    lines.write_text("".join(json.dumps(it) + "\n" for it in requests))
    code, report = run(tmp_path, lines, *targets, "--parity", "90% at 95%")
    assert code == 1 and report["mismatched"] == 60 and kinds(report)["$.id", "value"] == 60
    for server in (one, other):
        assert {cookie for _, _, cookie, _ in server.seen} <= {None, f"sid={server.name}"}, "each side's session is its own"
    code, report = run(tmp_path, lines, *targets, "--parity", "90% at 95%", "--baseline", 40, "--seed", 3)
    assert {it["path"]: it["rule"].split("(")[0] for it in report["noise"]} == {"$.id": "uuid", "$.seq": "counter"}, report["noise"]
    assert code == 0 and report["skipped"] == {"not safe": 1}, report["reasons"]
    # 29 controls teach nothing.
    assert run(tmp_path, lines, *targets, "--baseline", 29)[1]["noise"] == []
    # Writes: allowed and declared, or not sent.
    posts = lambda: sum(method == "POST" for server in (one, other) for method, *_ in server.seen)  # noqa: E731
    code, report = run(tmp_path, lines, *targets, "--allow-unsafe")
    assert report["skipped"] == {"not a sandbox": 1} and posts() == 0
    hosts = [item for url in urls for item in ("--sandbox", url.removeprefix("http://"))]
    code, report = run(tmp_path, lines, *targets, "--allow-unsafe", *hosts)
    assert report["skipped"] == {} and posts() == 2 and ("POST", "/w", b"x=1") in [(m, p, b) for m, p, _, b in one.seen]
    # A dry run asks nobody.
    before = one.count + other.count
    out = compare("run", "--in", lines, *targets, "--dry-run")
    assert out.returncode == 0 and out.stdout.count("GET /p") == 60 and "# 1 left out: not safe" in out.stdout and one.count + other.count == before
    # By time and by rate.
    for pace, at_least in (("original*10", 0.55), ("120/s", 0.45)):
        begun = time.monotonic()
        out = compare("run", "--in", lines, *targets, "--pace", pace, "--output", "json")
        # The last request is not due before; how long after is the machine's affair.
        assert out.returncode == 1 and time.monotonic() - begun >= at_least, out.stderr


class Flapping(http.server.BaseHTTPRequestHandler):
    """Legacy leaves something out now and then; serverless always does."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        with self.server.lock:
            self.server.count += 1
            value = {"a": 1} if self.server.always or self.server.count % 9 == 0 else {"a": 1, "promo": True}
        body = json.dumps(value).encode()
        if self.headers.get("if-none-match"):
            self.send_response(304)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def test_what_serverless_does_more_often_is_no_noise_and_conditions_are_not_sent(tmp_path):
    urls = []
    for always in (False, True):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Flapping)
        server.count, server.always, server.lock = 0, always, threading.Lock()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        urls.append(f"http://127.0.0.1:{server.server_port}")
    lines = tmp_path / "in.jsonl"
    lines.write_text("".join(json.dumps({"url": f"/p{n}", "headers": {"If-None-Match": '"l"', "Range": "bytes=0-1"}}) + "\n" for n in range(310)))
    targets = ["--legacy", urls[0], "--serverless", urls[1]]
    code, report = run(tmp_path, lines, *targets, "--baseline", 100, "--seed", 1)
    # Left out by legacy in about a ninth of its answers, by serverless in all: a rule would hide it.
    assert code == 1 and report["noise"] == [] and kinds(report)["$.promo", "missing"] > 200, report["reasons"]
    assert report["distinct"] == 310 and not report["inconclusive"]
    # Beside itself it is noise, and is taken as that.
    code, report = run(tmp_path, lines, "--legacy", urls[0], "--serverless", urls[0], "--baseline", 100, "--seed", 1)
    assert [it["path"] for it in report["noise"]] == ["$.promo"] and code == 0, report["reasons"]


def test_a_saved_run_keeps_why_a_side_gave_nothing(tmp_path):
    origin = Origin(lambda connection, data: connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
    lines, saved = tmp_path / "in.jsonl", tmp_path / "saved.jsonl"
    lines.write_text("".join(json.dumps({"url": f"/p{n}"}) + "\n" for n in range(5)))
    out = compare("run", "--in", lines, "--legacy", f"http://127.0.0.1:{origin.port}", "--serverless", f"http://127.0.0.1:{lease_port()}", "--save", saved)
    assert out.returncode == 3
    again = compare("rescore", saved)
    assert again.returncode == 3 and "serverless cannot be reached" in again.stdout, again.stdout
    shown = compare("show", saved)
    assert shown.returncode == 0 and "INCONCLUSIVE" in shown.stdout and "REGRESSION" not in shown.stdout
    for bad in ("http://127.0.0.1:99999", "http://127.0.0.1:1?x=1"):
        assert compare("run", "--in", lines, "--legacy", bad, "--serverless", bad).returncode == 64, bad


def test_a_page_that_a_browser_wrote_down_in_unicode_is_the_page_it_was(tmp_path):
    page = "<html><body><p>가격 안내</p></body></html>"
    raw = page.encode("euc-kr")
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=euc-kr\r\nContent-Length: {len(raw)}\r\n\r\n".encode()
    origin = Origin(lambda connection, data: connection.sendall(head + raw))
    response = {"status": 200, "headers": [{"name": "Content-Type", "value": "text/html; charset=euc-kr"}], "content": {"text": page, "size": len(raw)}}
    entry = {"startedDateTime": "2026-01-01T00:00:00Z", "time": 1, "request": {"method": "GET", "url": "http://air.example/검색?q=가", "headers": []}, "response": response}
    (tmp_path / "a.har").write_text(json.dumps({"log": {"entries": [entry]}}))
    code, report = run(tmp_path, tmp_path / "a.har", "--serverless", f"http://127.0.0.1:{origin.port}", "--parity", "1% at 1%")
    assert code == 0 and report["matched"] == 1, report["differences"]


def test_one_hot_request_proves_little(tmp_path):
    answer = {"status": 200, "headers": {"content-type": "application/json"}, "body": "{}"}
    for urls, expected in (([f"/p{n}" for n in range(300)], 0), (["/hot"] * 300, 2), ([f"/p{n % 30}" for n in range(300)], 0)):
        (tmp_path / "in.jsonl").write_text("".join(json.dumps({"url": url, "legacy": answer, "serverless": answer}) + "\n" for url in urls))
        code, report = run(tmp_path, tmp_path / "in.jsonl")
        assert code == expected and report["compared"] == 300 and report["distinct"] == len(set(urls)), report["reasons"]


def test_a_failing_answer_that_cannot_be_read_is_a_failing_answer(tmp_path):
    answer = lambda status, **more: {"status": status, "headers": {"content-type": "application/json", **more}, "body": "x"}  # noqa: E731
    rows = [{"url": "/a", "legacy": answer(200), "serverless": answer(500, **{"content-encoding": "gzip"})}, {"url": "/b", "legacy": answer(200, **{"content-encoding": "odd"}), "serverless": answer(200, **{"content-encoding": "odd"})}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, report = run(tmp_path, tmp_path / "in.jsonl")
    assert kinds(report) == {("status", "status"): 1} and report["matched"] == 1 and code == 1


def test_what_clients_cannot_read_of_one_side_is_a_difference(tmp_path):
    answer = lambda **more: {"status": 200, "headers": {"content-type": "application/json", **more}, "body": '{"a":1}'}  # noqa: E731
    broken = answer(**{"content-encoding": "gzip"})
    rows = [{"url": "/a", "legacy": answer(), "serverless": broken}, {"url": "/b", "legacy": broken, "serverless": {**broken, "body": "other"}}, {"url": "/c", "legacy": answer(), "serverless": answer(**{"content-encoding": "odd"})}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, report = run(tmp_path, tmp_path / "in.jsonl")
    assert kinds(report)[("body", "bytes")] == 1 and report["inconclusive"] == {"undecodable": 2}, report


def test_other_hosts_of_a_page_are_told_and_left_out(tmp_path):
    one, other = counter("one"), counter("other")
    urls = [f"https://{host}/{number}" for number in range(3) for host in ("shop.example", "ads.example:8443")]
    entries = [{"startedDateTime": "2026-01-01T00:00:00Z", "time": 1, "request": {"method": "GET", "url": url, "headers": []}, "response": {"status": 200, "headers": [], "content": {"text": ""}}} for url in urls]
    (tmp_path / "a.har").write_text(json.dumps({"log": {"entries": entries}}))
    targets = ["--legacy", f"http://127.0.0.1:{one.server_port}", "--serverless", f"http://127.0.0.1:{other.server_port}"]
    out = compare("run", "--in", tmp_path / "a.har", *targets)
    assert "2 hosts (ads.example:8443, shop.example)" in out.stderr and len(one.seen) == 6, out.stderr
    _, report = run(tmp_path, tmp_path / "a.har", *targets, "--only-host", "SHOP.example")
    assert report["compared"] == 3 and report["input"]["left_out"] == {"of another host": 3} and len(one.seen) == 9
    # A method by another name is no safe one, and a report that cannot be written is told before anything is sent.
    entries = [{"url": "/a", "headers": {"X-HTTP-Method-Override": "DELETE"}}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in entries))
    out = compare("run", "--in", tmp_path / "in.jsonl", *targets, "--json", tmp_path / "r.json")
    assert len(one.seen) == 9 and json.loads((tmp_path / "r.json").read_text())["compared"] == 0, out.stdout
    (tmp_path / "in.jsonl").write_text('{"url": "/a"}\n')
    out = compare("run", "--in", tmp_path / "in.jsonl", *targets, "--html", tmp_path / "nowhere/x.html", "--json", tmp_path / "new.json")
    assert out.returncode == 64 and "nowhere" in out.stderr and len(one.seen) == 9 and not (tmp_path / "new.json").exists()


def test_runs_say_the_same_twice_under_a_seed(tmp_path):
    rows = []
    for n in range(40):
        answer = lambda v: {"status": 200, "headers": {"content-type": "application/json"}, "body": json.dumps({"n": n, "mail": f"kim{n}@example.com", "v": v})}  # noqa: B023, E731
        rows.append({"url": f"/users/{n}?token=secret{n}", "legacy": answer(1), "serverless": answer(1 if n % 4 else 2)})
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outs = [compare("run", "--in", tmp_path / "in.jsonl", "--seed", 5, "--output", "json").stdout for _ in range(2)]
    assert outs[0] == outs[1] and json.loads(outs[0])["mode"] == "recorded-recorded" and json.loads(outs[0])["mismatched"] == 10
    assert "secret" not in outs[0] and "kim" not in outs[0] and "/users/number:" in outs[0]
    other = compare("run", "--in", tmp_path / "in.jsonl", "--seed", 6, "--output", "json").stdout
    assert other != outs[0]


def test_curl_commands_are_read_as_a_browser_copies_them(sides, tmp_path):
    _, legacy, serverless = sides
    (tmp_path / "list.sh").write_text(
        f"# two of them\ncurl '{legacy}/api/loyalty/a' \\\n  -H 'accept: */*' \\\n  -b 'SESSIONID=1' --compressed\n"
        f"curl '{legacy}/api/loyalty/b' -H 'user-agent: it' --insecure\n"
    )
    code, report = run(tmp_path, tmp_path / "list.sh", "--legacy", legacy, "--serverless", serverless, "--host", "air.example")
    assert report["compared"] == 2 and report["matched"] == 2 and code == 2
    (tmp_path / "bad.sh").write_text("curl -d @secrets.txt http://x/\n")
    out = compare("run", "--in", tmp_path / "bad.sh", "--legacy", legacy, "--serverless", serverless)
    assert out.returncode == 64 and "line 1" in out.stderr and "reads a file" in out.stderr
    # What is asked is what curl would ask, or nothing.
    known = [
        ("curl -XDELETE http://h/del", "DELETE /del"), ("curl http://h/x --data-urlencode 'q=a b'", "POST /x"), ("curl -G http://h/g -d q=1", "GET /g?q=1"), ("curl --request=PUT http://h/p", "PUT /p"),
        ("curl http://h/json --json '{}'", "POST /json"), ("curl -sSL http://h/m -x proxy:3128 --retry 3", "GET /m"), ("curl -I 'http://h/multi' -H 'a: b\nc'", "HEAD /multi"), ("curl http://h/\\\n  -k", "GET /"),
    ]
    for command, expected in known:
        (tmp_path / "one.sh").write_text(command + "\n")
        out = compare("run", "--in", tmp_path / "one.sh", "--legacy", legacy, "--serverless", serverless, "--dry-run", "--allow-unsafe", "--sandbox", legacy.removeprefix("http://"), "--sandbox", serverless.removeprefix("http://"))
        assert out.returncode == 0 and out.stdout.splitlines()[0] == expected, (command, out.stdout, out.stderr)
    for command, text in [("curl http://h/f -F a=b", "`-F` is not understood"), ("curl http://h/a http://h/b", "two URLs"), ("curl 'http://h/a", "a quote is not closed"), ("wget http://h/", "is not a curl command")]:
        (tmp_path / "one.sh").write_text(command + "\n")
        out = compare("run", "--in", tmp_path / "one.sh", "--legacy", legacy, "--serverless", serverless, "--dry-run")
        assert out.returncode == 64 and "line 1" in out.stderr and text in out.stderr, (command, out.stderr)


def test_quotes_of_bash_are_what_they_stand_for(tmp_path):
    server = counter("one")
    (tmp_path / "one.sh").write_text(f"curl 'http://127.0.0.1:{server.server_port}/x' --data-raw $'{{\"a\":\"x\\\\n\\u0021 \\'\\ud83d\\ude00\"\\n}}'\n")
    host = f"127.0.0.1:{server.server_port}"
    out = compare("run", "--in", tmp_path / "one.sh", "--legacy", f"http://{host}", "--serverless", f"http://{host}", "--allow-unsafe", "--sandbox", host)
    assert out.returncode in (1, 2), out.stderr
    assert {body for _, _, _, body in server.seen} == {'{"a":"x\\n! \'😀"\n}'.encode()}


def patch_cases():
    """The documents of the JSON Patch test suite, by its name as a package."""
    return json.loads((BROWSER / "node_modules/json-patch-test-suite/tests.json").read_text()) + json.loads((BROWSER / "node_modules/json-patch-test-suite/spec_tests.json").read_text())


def same(a, b):
    """Equality of JSON values: a boolean is no number, and 1 is not 1.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_documents_of_the_json_patch_suite_are_told_apart_as_its_authors_have_it(tmp_path):
    rows, wanted = [], []
    for case in patch_cases():
        if "doc" not in case or "expected" not in case:
            continue
        for one, other in ((case["doc"], case["expected"]), (case["expected"], case["expected"])):
            answers = {side: {"status": 200, "headers": {"content-type": "application/json"}, "body": json.dumps(value, indent=indent)}
                       for side, value, indent in (("legacy", one, 2), ("serverless", other, None))}
            rows.append({"url": "/x", **answers})
            wanted.append("match" if same(one, other) else "mismatch")
    assert len(rows) > 100 and "match" in wanted and "mismatch" in wanted
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, report = run(tmp_path, tmp_path / "in.jsonl")
    assert [it["verdict"] for it in report["exchanges"]] == wanted
