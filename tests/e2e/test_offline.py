"""The same events and answers next to a second implementation of API Gateway: serverless-offline."""

import base64
import json
import re
import urllib.parse

import pytest
from conftest import Banyan
from emulators import REGION, ROOT_KEY, Offline, environment, send
from test_lambda import REQUESTS, body_of, told

TEXT = [("Content-Type", "text/plain")]


@pytest.fixture(scope="module")
def lab(start_once):
    offline = start_once(Offline)
    at = f'function: {offline.FUNCTION}, region: {REGION}, endpoint: "http://127.0.0.1:{offline.invoke}"'
    banyan = start_once(Banyan, f"""
version: 1
defaults: {{encoded_slash: allow}}
backends:
  v2: {{lambda: {{{at}}}}}
  v1: {{lambda: {{{at}, payload: v1}}}}
  gone: {{lambda: {{function: gone, region: {REGION}, endpoint: "http://127.0.0.1:{offline.invoke}"}}}}
routes:
  - {{id: v2, match: {{path: "/v2/{{proxy*}}"}}, serverless: v2, stage: serverless}}
  - {{id: v1, match: {{path: "/v1/{{proxy*}}"}}, serverless: v1, stage: serverless}}
  - {{id: gone, match: {{prefix: /gone}}, serverless: gone, stage: serverless}}
""", env=environment(ROOT_KEY))
    return offline, banyan


def usable(request):
    """It cuts trailing slashes, answers OPTIONS itself, refuses quotes in cookies, and knows bytes by two content types only."""
    method, target, headers, body = request
    kind = dict(headers).get("Content-Type", "")
    bytes_known = "octet-stream" in kind or "multipart" in kind or body is None or not kind.startswith(("image/", "application/x-www")) and body.isascii()
    if '"' in dict(headers).get("Cookie", ""):
        return False
    return method not in ("HEAD", "OPTIONS") and not target.partition("?")[0].endswith("/") and bytes_known and body != b""


SENT = [request for request in REQUESTS if usable(request)]


@pytest.mark.parametrize("name", ["v2", "v1"])
def test_events_are_those_of_a_second_implementation(lab, name):
    offline, banyan = lab
    assert len(SENT) >= 50
    for method, target, headers, body in SENT:
        ours = send(banyan.port, method, f"/{name}{target}", [("Host", "shop.example.com"), *headers], body)
        theirs = send(offline.port, method, f"/{name}{target}", [("Host", "shop.example.com"), *headers], body)
        about = (name, method, target, headers)
        assert (ours.status, theirs.status) == (200, 200), (about, ours, theirs)
        mine, other = ours.json(), theirs.json()
        assert mine["queryStringParameters"] == other["queryStringParameters"] if name == "v1" else mine.get("queryStringParameters") == (other.get("queryStringParameters") or None), about
        assert body_of(mine) == body_of(other) == (body or b""), about
        # Decoded there; AWS documents no decoding of what a proxy resource takes, and we keep the bytes that were matched.
        mine_path = {key: urllib.parse.unquote(value) for key, value in (mine.get("pathParameters") or {}).items()}
        other_path = {key: urllib.parse.unquote(value) for key, value in (other.get("pathParameters") or {}).items()}
        assert mine_path == other_path, about
        context, other_context = mine["requestContext"], other["requestContext"]
        missing = set(other_context) - set(context) - {"operationName", "authorizer"}
        assert not missing, (about, missing)
        # Only one header of a name survives there.
        single = lambda it: {key: re.split(", *", value)[-1] for key, value in told(it, skip=["cookie", "content-type", "x-quoted", "accept", "accept-language", "user-agent", "if-none-match", "x-a"]).items()}  # noqa: E731
        assert single(mine["headers"]) == single({key.lower(): value for key, value in other["headers"].items()}), about
        if name == "v2":
            assert mine["rawPath"] == other["rawPath"] and mine.get("cookies", []) == (other.get("cookies") or []), about
            assert mine["routeKey"] == other["routeKey"] == "ANY /v2/{proxy+}", about
            for field in ("method", "path", "protocol", "sourceIp"):
                assert context["http"][field] == other_context["http"][field], (about, field)
        else:
            assert mine["multiValueQueryStringParameters"] == other["multiValueQueryStringParameters"], about
            assert mine["httpMethod"] == other["httpMethod"] and mine["path"] == other["path"], about
            assert mine["resource"] == other["resource"] == "/v1/{proxy+}", about
            assert set(other_context["identity"]) <= set(context["identity"]), about
            repeated = [value for key, value in headers if key == "X-A"]
            if repeated:
                assert mine["multiValueHeaders"]["x-a"] == other["multiValueHeaders"]["X-A"] == repeated, about


ANSWERS = [
    {"statusCode": 200, "headers": {"content-type": "text/plain; charset=utf-8"}, "body": "hi"},
    {"statusCode": 201, "headers": {"location": "/x", "content-type": "application/json; charset=utf-8"}, "body": "{}"},
    {"statusCode": "202", "headers": {"content-type": "text/plain; charset=utf-8"}, "body": "words"},
    {"statusCode": 204},
    {"statusCode": 302, "headers": {"location": "https://example.com/"}},
    {"statusCode": 404, "headers": {"content-type": "application/problem+json; charset=utf-8"}, "body": "{}"},
    {"statusCode": 503, "headers": {"content-type": "text/plain; charset=utf-8", "retry-after": "1"}, "body": "later"},
    {"statusCode": 200, "headers": {"content-type": "image/png"}, "body": base64.b64encode(bytes(range(256))).decode(), "isBase64Encoded": True},
    {"statusCode": 200, "headers": {"content-type": "text/plain; charset=utf-8"}, "body": "ä你😀"},
    {"statusCode": 200, "headers": {"content-type": "text/plain; charset=utf-8", "x-number": 5, "x-true": True}, "body": "x"},
    {"statusCode": 200, "headers": {"content-type": "text/plain; charset=utf-8", "set-cookie": "single=1"}, "body": "x"},
]


@pytest.mark.parametrize("name", ["v2", "v1"])
def test_answers_are_those_of_a_second_implementation(lab, name):
    offline, banyan = lab
    extra = {"v2": [{"statusCode": 200, "headers": {"content-type": "text/plain; charset=utf-8"}, "cookies": ["a=1; Path=/", "b=2; HttpOnly"], "body": "x"}, {"no": "status"}],
             "v1": [{"statusCode": 200, "headers": {"content-type": "text/plain; charset=utf-8"}, "multiValueHeaders": {"set-cookie": ["a=1", "b=2"]}, "body": "x"}]}[name]
    for answer in ANSWERS + extra:
        packed = urllib.parse.quote(base64.b64encode(json.dumps(answer).encode()).decode(), safe="")
        ours, theirs = (send(port, "GET", f"/{name}/x?answer={packed}") for port in (banyan.port, offline.port))
        about = (name, answer)
        assert (ours.status, ours.body) == (theirs.status, theirs.body), (about, ours, theirs)
        for key in ("location", "retry-after", "x-number", "x-true"):
            assert ours.header(key) == theirs.header(key), (about, key)
        if ours.body:
            # It adds a charset to the default; AWS documents application/json.
            assert ours.header("content-type") in (theirs.header("content-type"), (theirs.header("content-type") or "").replace("; charset=utf-8", "")), about
        assert sorted(ours.all("set-cookie")) == sorted(theirs.all("set-cookie")), (about, ours, theirs)


def test_a_function_error_is_ours_to_answer_and_an_unknown_function_is_told(lab):
    _, banyan = lab
    for name in ("v2", "v1"):
        answer = send(banyan.port, "POST", f"/{name}/x?fail=1", TEXT, b"x")
        assert answer.status == 502 and b"function error" in answer.body and b"boom" not in answer.body
    banyan.counts(2, "banyan_lambda_errors_total", code="function_error")
    assert send(banyan.port, "GET", "/gone").status == 502
    banyan.counts(1, "banyan_lambda_errors_total", code="function_not_found")
