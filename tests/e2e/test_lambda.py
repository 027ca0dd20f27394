"""Functions through ministack: events and answers in every format next to the emulator's own gateways, failures by name, cost,
warming. What deviates from the emulator is named here, with what AWS documents; docs/serverless.md has the same list."""

import base64
import json
import re
import urllib.parse

import pytest
from conftest import Banyan, header, wait_for
from emulators import ACCOUNT, REGION, ROOT_KEY, Ministack, environment, send

# One function for everything: it tells the event it got, or gives the answer it is asked for, and logs a REPORT line as Lambda does
# (the emulator writes none).
MIRROR = '''
import json, os, time
ANSWERS = json.loads(os.environ.get("ANSWERS", "{}"))
REPORT = "REPORT RequestId: 1\\\\tDuration: 1.50 ms\\\\tBilled Duration: 40 ms\\\\tMemory Size: 1024 MB\\\\tMax Memory Used: 132 MB"
first = True

def handler(event, context):
    global first
    print(REPORT + ("\\\\tInit Duration: 99.10 ms" if first else ""))
    first = False
    path = event.get("rawPath") or event.get("path") or ""
    word = path.rsplit("/", 1)[-1]
    if word == "raise":
        raise ValueError("boom")
    if word == "exit":
        os._exit(3)
    if word == "sleep":
        time.sleep(30)
    if word in ANSWERS:
        return ANSWERS[word]
    if word == "big":
        return {"statusCode": 200, "headers": {"content-type": "text/plain"}, "body": "x" * 3000000}
    return {"statusCode": 200, "headers": {"content-type": "application/json", "x-seen": "yes"}, "body": json.dumps(event)}
'''.replace("\\\\t", "\\t")

ANSWERS = {
    "plain": {"statusCode": 200, "headers": {"content-type": "text/plain"}, "body": "hi"},
    "created": {"statusCode": 201, "headers": {"Location": "/x/1", "content-type": "application/json"}, "body": "{}"},
    "nobody": {"statusCode": 204},
    "notmodified": {"statusCode": 304, "headers": {"etag": "\"1\""}},
    "missing": {"statusCode": 404, "headers": {"content-type": "application/problem+json"}, "body": "{\"a\":1}"},
    "teapot": {"statusCode": 418, "headers": {"content-type": "text/plain"}, "body": "short"},
    "unavailable": {"statusCode": 503, "headers": {"content-type": "text/plain", "retry-after": "3"}, "body": "later"},
    "binary": {"statusCode": 200, "headers": {"content-type": "image/png"}, "body": base64.b64encode(bytes(range(256))).decode(), "isBase64Encoded": True},
    "emptybinary": {"statusCode": 200, "headers": {"content-type": "image/png"}, "body": "", "isBase64Encoded": True},
    "unicode": {"statusCode": 200, "headers": {"content-type": "text/plain; charset=utf-8"}, "body": "ä你😀"},
    "default": {"statusCode": 200, "body": "{}"},
    "wordstatus": {"statusCode": "202", "headers": {"content-type": "text/plain"}, "body": "ok"},
    "case": {"statusCode": 200, "headers": {"CONTENT-TYPE": "text/css", "X-Mixed": "Yes"}, "body": "a{}"},
    "framing": {"statusCode": 200, "headers": {"content-type": "text/plain", "content-length": "999", "connection": "close", "transfer-encoding": "chunked"}, "body": "four"},
    "redirect": {"statusCode": 302, "headers": {"location": "https://example.com/", "content-type": "text/plain"}, "body": ""},
}
COOKIES = {**ANSWERS["plain"], "cookies": ["a=1; Path=/", "b=2; HttpOnly"]}
LISTS = {**ANSWERS["plain"], "multiValueHeaders": {"Set-Cookie": ["a=1", "b=2"], "x-many": ["1", "2"]}}

BINARY = bytes(range(256))
JSON = [("Content-Type", "application/json")]
TEXT = [("Content-Type", "text/plain; charset=utf-8")]
BYTES = [("Content-Type", "application/octet-stream")]
COOKIE = [("Cookie", "c1=v1; c2=v2")]

# (method, target after the prefix, headers, body); targets whose query the gateways read alike.
REQUESTS = [
    *[(method, "/m", [], None) for method in ("GET", "HEAD", "DELETE", "OPTIONS")],
    *[(method, "/m", TEXT, b"text") for method in ("POST", "PUT", "PATCH", "DELETE")],
    *[("GET", target, [], None) for target in (
        "/", "/a", "/a/", "/a/b/c", "/a%20b", "/%E4%BD%A0%E5%A5%BD", "/a%2Fb", "/a%25b", "/~a-b._c", "/a:b", "/a@b", "/a,b", "/a=b", "/a!b*c'd", "/%F0%9F%98%80",
        "/m?x=1", "/m?x=1&y=2", "/m?x=1&x=2", "/m?x=1&x=2&x=3&y=1", "/m?x=%20", "/m?x=%26%3D", "/m?x=%E4%BD%A0", "/m?a%20b=1", "/m?x=1%2C2", "/m?x=a%2Bb", "/m?x=%F0%9F%98%80&x=2",
        "/m?long=" + "v" * 2000)],
    *[("GET", "/m", headers, None) for headers in (
        [("X-A", "1")], [("X-A", "1"), ("X-A", "2")], [("X-A", "1"), ("X-B", "2"), ("X-A", "3")], [("X-Empty", "")], [("X-A", "a, b")], [("X-Quoted", '"q", "r"')],
        [("Accept", "text/html, */*;q=0.1")], [("Accept-Language", "de, en;q=0.5")], [("User-Agent", "agent/1 (x; y)")], [("Authorization", "Basic Zm9vOmJhcg==")],
        COOKIE, [("Cookie", "one=1")], [("Cookie", "a=\"q=1\"; b=x%20y")], [("X-Long", "v" * 4000)], [("If-None-Match", '"1", "2"')])],
    *[("POST", "/m", headers, body) for headers, body in (
        (JSON, b'{"a": 1}'), (JSON, "{\"ä\": \"你😀\"}".encode()), (JSON, b""), (TEXT, "ünïcödé 😀".encode()), (TEXT, b"line\r\nline\ttab\"quote\\"),
        (BYTES, BINARY), (BYTES, b"\0"), (BYTES, b""), ([("Content-Type", "image/png")], BINARY * 4), ([("Content-Type", "application/x-www-form-urlencoded")], b"a=1&b=%20x"),
        ([("Content-Type", "multipart/form-data; boundary=x")], b"--x\r\ncontent-disposition: form-data; name=a\r\n\r\n\xff\r\n--x--\r\n"), ([("Content-Type", "application/xml")], b"<a/>"),
        (TEXT, b"x" * 100_000), (BYTES, BINARY * 4096), (JSON, json.dumps(["v" * 1000] * 1000).encode()), (BYTES + COOKIE, BINARY))],
]
assert len(REQUESTS) >= 60


class Lab:
    pass


@pytest.fixture(scope="module")
def lab(start_once):
    lab = Lab()
    lab.cloud = cloud = start_once(Ministack)
    env = lambda extra: {"ANSWERS": json.dumps({**ANSWERS, **extra})}  # noqa: E731
    lab.v2 = cloud.function("v2", MIRROR, env=env({"cookies": COOKIES, "bare": {"no": "status"}}))
    lab.v1 = cloud.function("v1", MIRROR, env=env({"lists": LISTS}))
    lab.alb = cloud.function("alb", MIRROR, env=env({}))
    lab.albm = cloud.function("albm", MIRROR, env=env({"lists": {k: v for k, v in LISTS.items() if k != "headers"}}))
    lab.broken = cloud.function("broken", "def handler(event, context):\n    print('x')\n    return 'no answer'\n")
    lab.slow = cloud.function("slow", MIRROR, timeout=1)
    cloud.alias("v2", "live")
    lab.hosts = {
        "v2": cloud.function_url("v2"),
        "v1": f"{cloud.rest_api(lab.v1)}.execute-api.localhost",
        "alb": cloud.load_balancer(lab.alb, "single"),
        "albm": cloud.load_balancer(lab.albm, "multi", multi_value=True),
    }
    at = f'region: {REGION}, endpoint: "{cloud.url}"'
    rules = f"""
version: 1
backends:
  v2: {{lambda: {{function: "{lab.v2}", qualifier: live, endpoint: "{cloud.url}", log_tail: true}}}}
  v1: {{lambda: {{function: v1, {at}, payload: v1}}}}
  alb: {{lambda: {{function: alb, {at}, payload: alb}}}}
  albm: {{lambda: {{function: albm, {at}, payload: alb, multi_value: true}}}}
  stream: {{lambda: {{function: v2, {at}, stream: true}}}}
  broken: {{lambda: {{function: broken, {at}, payload: v1}}}}
  slow: {{lambda: {{function: slow, {at}}}}}
  gone: {{lambda: {{function: gone, {at}}}}}
defaults: {{encoded_slash: allow}}
routes:
"""
    for name in ("v2", "v1", "alb", "albm", "stream", "broken", "slow", "gone"):
        rules += f"  - {{id: {name}, match: {{prefix: /{name}}}, serverless: {name}, stage: serverless, rewrite: {{prefix: /}}}}\n"
    settings = "version: 1\nattribution_header: true\naws: {prices: {eu-west-1: {requests_per_million: 0.20, gb_second: 0.0000166667}}}\n"
    lab.banyan = start_once(Banyan, rules, settings=settings, env=environment(ROOT_KEY))
    return lab


def both(lab, name, request):
    """The same request through Banyan and through the emulator's own gateway."""
    method, target, headers, body = request
    host = lab.hosts[name]
    stage = "/prod" if name == "v1" else ""
    ours = send(lab.banyan.port, method, f"/{name}{target}", [("Host", host), *headers], body)
    theirs = send(lab.cloud.port, method, stage + target, [("Host", host), *headers], body)
    return ours, theirs


def body_of(event):
    raw = event.get("body") or ""
    return base64.b64decode(raw) if event.get("isBase64Encoded") else raw.encode()


def told(headers, skip=()):
    """What a client sent, as an event has it; what gateways add for themselves is left out. Lists are joined by a comma with or without
    a space: AWS documents the bare comma."""
    added = re.compile(r"^(x-forwarded-|x-amzn-|via$|traceparent$|host$|content-length$|accept-encoding$|connection$|transfer-encoding$)")
    value = lambda text: re.sub(r", *", ",", text)  # noqa: E731
    return {name.lower(): value(text) for name, text in (headers or {}).items() if not added.match(name.lower()) and name.lower() not in skip}


def test_v2_events_are_those_of_a_function_url(lab):
    for request in REQUESTS:
        if request[0] == "HEAD":
            continue
        ours, theirs = both(lab, "v2", request)
        assert (ours.status, theirs.status) == (200, 200), (request, ours, theirs)
        mine, other = ours.json(), theirs.json()
        about = request[:3]
        assert mine["version"] == other["version"] == "2.0", about
        # The emulator decodes the path, as an HTTP API does; a Function URL and we keep it as it was sent.
        assert mine["rawPath"] == request[1].partition("?")[0] and urllib.parse.unquote(mine["rawPath"]) == other["rawPath"], about
        assert mine["rawQueryString"] == other["rawQueryString"] == request[1].partition("?")[2], about
        assert mine.get("queryStringParameters") == other.get("queryStringParameters"), about
        # The emulator leaves cookies in the headers; AWS documents the list, and no header.
        cookies = dict((name.lower(), value) for name, value in request[2]).get("cookie")
        assert mine.get("cookies") == (cookies.split("; ") if cookies else None) and "cookie" not in mine["headers"], about
        assert told(mine["headers"]) == told(other["headers"], skip=["cookie"]), about
        assert (body_of(mine), mine["isBase64Encoded"]) == (body_of(other), other["isBase64Encoded"]) if request[3] else mine.get("body") is None, about
        for field in ("method", "protocol", "sourceIp", "userAgent"):
            assert mine["requestContext"]["http"][field] == other["requestContext"]["http"][field], (about, field)
        assert set(other["requestContext"]) <= set(mine["requestContext"]), about
        assert re.fullmatch(r"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000", mine["requestContext"]["time"])
        assert mine["requestContext"]["accountId"] == ACCOUNT and abs(mine["requestContext"]["timeEpoch"] - other["requestContext"]["timeEpoch"]) < 20_000


def test_v1_events_are_those_of_a_rest_api(lab):
    for request in REQUESTS:
        if request[0] == "HEAD":
            continue
        ours, theirs = both(lab, "v1", request)
        assert (ours.status, theirs.status) == (200, 200), (request, ours, theirs)
        mine, other = ours.json(), theirs.json()
        about = request[:3]
        assert mine["httpMethod"] == other["httpMethod"] == request[0], about
        # Decoded by the emulator; AWS passes the path of a proxy resource on as it was sent.
        assert mine["path"] == request[1].partition("?")[0] and urllib.parse.unquote(mine["path"]) == other["path"], about
        # The emulator keeps the first value of a repeated key, AWS documents the last; the lists are the same.
        assert mine["multiValueQueryStringParameters"] == other["multiValueQueryStringParameters"], about
        lists = mine["multiValueQueryStringParameters"] or {}
        assert (mine["queryStringParameters"] or {}) == {key: values[-1] for key, values in lists.items()}, about
        # The emulator joins repeated headers into one entry; AWS documents a list of them.
        joined = {name: ",".join(values) for name, values in mine["multiValueHeaders"].items()}
        assert told(joined) == told({name: values[0] for name, values in other["multiValueHeaders"].items()}), about
        assert told(mine["headers"]) == {name: re.sub(", *", ",", values[-1]) for name, values in mine["multiValueHeaders"].items() if name in told(mine["headers"])}, about
        # The API takes every type for binary, as its authors have to for binary answers; ours gives text as text.
        assert body_of(mine) == body_of(other) == (request[3] or b""), about
        assert set(other) <= set(mine) and set(other["requestContext"]) <= set(mine["requestContext"]), about
        assert set(other["requestContext"]["identity"]) <= set(mine["requestContext"]["identity"]), about


@pytest.mark.parametrize("name", ["alb", "albm"])
def test_alb_events_are_those_of_a_load_balancer(lab, name):
    for request in REQUESTS:
        if request[0] == "HEAD":
            continue
        ours, theirs = both(lab, name, request)
        assert (ours.status, theirs.status) == (200, 200), (request, ours, theirs)
        mine, other = ours.json(), theirs.json()
        about = request[:3]
        assert mine["httpMethod"] == other["httpMethod"] and mine["path"] == request[1].partition("?")[0], about
        assert urllib.parse.unquote(mine["path"]) == other["path"], about
        query = [pair.partition("=")[::2] for pair in request[1].partition("?")[2].split("&") if pair]
        if name == "alb":
            assert mine["queryStringParameters"] == (other.get("queryStringParameters") or {}), about
            assert mine["queryStringParameters"] == dict(query) and "multiValueHeaders" not in mine, about
            last = {key: value.rpartition(",")[2] if key == "x-a" else value for key, value in told(other["headers"]).items()}
            mine_last = {key: value.rpartition(",")[2] if key == "x-a" else value for key, value in told(mine["headers"]).items()}
            assert mine_last == last, about
        else:
            # AWS documents the lists in place of the single maps; the emulator sends both, and its lists decoded and joined.
            lists = {}
            for key, value in query:
                lists.setdefault(key, []).append(value)
            assert mine["multiValueQueryStringParameters"] == lists and "headers" not in mine and "queryStringParameters" not in mine, about
            assert told({key: ",".join(values) for key, values in mine["multiValueHeaders"].items()}) == told({key: ",".join(values) for key, values in other["multiValueHeaders"].items()}), about
        assert body_of(mine) == body_of(other) == (request[3] or b"") or not mine["isBase64Encoded"], about
        assert body_of(mine) == (request[3] or b"") and mine["body"] is not None, about
        assert mine["requestContext"]["elb"]["targetGroupArn"].startswith("arn:aws:elasticloadbalancing:"), about


@pytest.mark.parametrize("name", ["v2", "v1", "alb", "albm"])
def test_answers_become_the_responses_of_the_gateway(lab, name):
    extra = {"v2": ["cookies"], "v1": ["lists"], "albm": ["lists"]}.get(name, [])
    for word in [*ANSWERS, *extra]:
        for method in ("GET", "HEAD", "POST"):
            # A REST API decodes binary answers only for clients that say what they accept.
            accept = [("Accept", "*/*")]
            ours, theirs = both(lab, name, (method, f"/answers/{word}", accept + TEXT if method == "POST" else accept, b"x" if method == "POST" else None))
            about = (name, word, method)
            assert ours.status == theirs.status, (about, ours, theirs)
            assert ours.body == theirs.body or name == "albm", (about, ours, theirs)
            if ours.status not in (204, 304):
                assert int(ours.header("content-length")) == len(theirs.body if method != "HEAD" else base_body(word)), (about, ours)
                # Without a content type AWS documents application/json (APIs) and application/octet-stream (load balancers).
                if word != "default" and name != "albm":
                    assert ours.header("content-type") == theirs.header("content-type"), (about, ours, theirs)
            for key in ("location", "etag", "retry-after", "x-mixed"):
                assert ours.header(key) == theirs.header(key) or name == "albm", (about, key)
            if word in extra:
                assert [cookie.partition(";")[0] for cookie in ours.all("set-cookie")] == ["a=1", "b=2"], (about, ours)
                assert ours.all("set-cookie") == theirs.all("set-cookie"), (about, ours, theirs)


def base_body(word):
    answer = {**ANSWERS, "cookies": COOKIES, "lists": LISTS}[word]
    raw = answer.get("body", "")
    return base64.b64decode(raw) if answer.get("isBase64Encoded") else raw.encode()


def test_a_value_without_a_status_is_json_and_large_answers_pass(lab):
    ours = send(lab.banyan.port, "GET", "/v2/answers/bare")
    assert (ours.status, ours.json(), ours.header("content-type")) == (200, {"no": "status"}, "application/json")
    ours = send(lab.banyan.port, "GET", "/v2/big")
    assert (ours.status, len(ours.body)) == (200, 3_000_000)
    head = send(lab.banyan.port, "HEAD", "/v2/big")
    assert (head.status, head.body, head.header("content-length")) == (200, b"", "3000000")


def test_a_function_that_does_not_stream_answers_a_streaming_call(lab):
    ours = send(lab.banyan.port, "POST", "/stream/answers/binary", TEXT, b"x")
    assert (ours.status, ours.body, ours.header("content-type")) == (200, BINARY, "image/png")
    ours = send(lab.banyan.port, "POST", "/stream/x", BYTES, BINARY)
    assert body_of(ours.json()) == BINARY


def test_failures_are_told_apart_by_name(lab):
    banyan = lab.banyan

    def fails(target, status, code, backend, body=None, headers=()):
        before = banyan.metric("banyan_lambda_errors_total", backend=backend, code=code) or 0
        answer = send(banyan.port, "POST" if body is not None else "GET", target, list(headers), body)
        assert answer.status == status, answer
        assert code.replace("_", " ").encode() in answer.body and b"boom" not in answer.body, answer
        banyan.counts(before + 1, "banyan_lambda_errors_total", backend=backend, code=code)
        trace = answer.header("x-request-id")
        return banyan.log_lines(1, lambda line: line["trace_id"] == trace)[0]

    line = fails("/v2/raise", 502, "function_error", "v2")
    assert line["cause"] == "function_error" and "boom" in line["detail"] and line["side"] == "serverless"
    fails("/v2/exit", 502, "function_error", "v2")
    line = fails("/slow/sleep", 504, "function_timeout", "slow")
    assert "Task timed out" in line["detail"]
    line = fails("/gone/x", 502, "function_not_found", "gone")
    assert "ResourceNotFoundException" in line["detail"]
    line = fails("/broken/x", 502, "malformed_function_answer", "broken")
    assert "statusCode" in line["detail"]
    assert lab.cloud.reserve("alb", 0).status == 200
    try:
        line = fails("/alb/x", 429, "throttled_function_concurrency", "alb")
        assert "ReservedFunctionConcurrent" in line["detail"]
    finally:
        lab.cloud.reserve("alb", None)
    assert send(banyan.port, "GET", "/alb/x").status == 200
    # 5 MB of bytes are over 6 MB in base64: refused before anything is sent.
    fails("/v2/x", 413, "event_too_large", "v2", body=b"\xff" * 5_000_000, headers=BYTES)
    answer = send(banyan.port, "POST", "/v2/x", BYTES + [("Connection", "close")], b"\xff" * 7_000_000)
    assert answer.status == 413 and b"body too large for function" in answer.body
    # Whoever failed before does not stand in the way of who comes next.
    assert send(banyan.port, "POST", "/v2/x", TEXT, b"x").status == 200
    banyan.counts(0, "banyan_buffered_bytes")


def test_a_connection_is_kept_after_a_function_failed(lab):
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", lab.banyan.port, timeout=20)
    for target, status in (("/v2/raise", 502), ("/v2/x", 200), ("/gone/x", 502), ("/v2/y", 200)):
        connection.request("POST", target, b"{}", {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status and answer.getheader("connection") != "close"
    connection.close()


def test_cost_memory_and_cold_starts_are_read_from_the_log_tail(lab):
    banyan = lab.banyan
    for _ in range(3):
        assert send(banyan.port, "GET", "/v2/x").status == 200
    labels = {"route": "v2", "function": "v2:live"}
    wait_for("reports", lambda: (banyan.metric("banyan_lambda_billed_seconds_count", **labels) or 0) >= 3)
    assert banyan.metric("banyan_lambda_cold_starts_total", **labels) >= 1
    assert banyan.metric("banyan_lambda_memory_configured_bytes", function="v2:live") == 1024 << 20
    assert banyan.metric("banyan_lambda_memory_used_bytes", function="v2:live") == 132 << 20
    # 40 ms at 1 GB, and the price of the call.
    assert abs(banyan.metric("banyan_lambda_cost_per_million_requests", **labels) - (0.20 + 0.040 * 16.6667)) < 0.001
    shown = banyan.cli("show", "v2").stdout
    assert "1024 MB configured, 132 MB used" in shown and "0.87 per million requests" in shown and "40.0 ms billed" in shown
    value = json.loads(banyan.cli("show", "v2", "--output", "json").stdout)["functions"][0]
    assert (value["function"], value["memory_used_mb"], value["hint"]) == ("v2:live", 132, "1024 MB configured, 132 MB used")
    assert "`log_tail: true` brings it" in banyan.cli("show", "v1").stdout
    assert any(line.get("faas.billed") == 0.04 for line in banyan.log_lines(3, lambda line: line.get("route") == "v2"))


def test_instances_are_warm_before_a_share_is_raised(start):
    cloud = start(Ministack)
    cloud.function("shop", MIRROR.replace("first = True", "time.sleep(1); first = True"))
    at = f'region: {REGION}, endpoint: "{cloud.url}"'

    def rules(share):
        return f"""
version: 1
backends:
  old: {{urls: ["{cloud.url}"], host: backend}}
  shop: {{lambda: {{function: shop, {at}, log_tail: true, warm: {{concurrency: 3, every: 5m, path: "/warm?x=1"}}}}}}
routes: [{{id: shop, match: {{prefix: /}}, legacy: old, serverless: shop, stage: canary, share: {share}}}]
"""

    banyan = start(Banyan, rules("0%"), env=environment(ROOT_KEY))
    wait_for("the round at the start", lambda: banyan.metric("banyan_lambda_warm_calls_total", backend="shop", result="answered") == 3)
    cloud.reserve("shop", None)
    banyan.write_rules(rules("100%"))
    wait_for("the share", lambda: "serverless" in (header(send(banyan.port, "GET", "/x").headers, "x-banyan") or ""))
    # Three calls more, all before the first request: none of them met a cold start.
    assert banyan.metric("banyan_lambda_warm_calls_total", backend="shop", result="answered") == 6
    assert send(banyan.port, "GET", "/x").status == 200
    wait_for("a report", lambda: banyan.metric("banyan_lambda_billed_seconds_count", route="shop"))
    assert not banyan.metric("banyan_lambda_cold_starts_total", route="shop")


def test_a_function_without_a_region_is_refused_with_its_place(start):
    banyan = start(Banyan, "version: 1\nbackends: {f: {lambda: {function: x}}}\nroutes: [{id: a, match: {path: /a}, serverless: f, stage: serverless}]\n",
                   args=["--wait-for-rules"], wait=False, env={"AWS_REGION": "", "AWS_DEFAULT_REGION": ""})
    wait_for("the refusal", lambda: "rules.yaml:2:16: lambda_endpoint: backend \"f\": no region is known" in banyan.text())
