"""External authorizers: real Lambda authorizers in the emulator, asked once for each identity and route, and nobody let through without a verdict."""

import http.server
import json
import threading
import time

import pytest
from conftest import Banyan, Nginx, header, lease_port, wait_for
from emulators import REGION, ROOT_KEY, Ministack, environment, send

# An authorizer as AWS's own examples have it; what it was asked goes back as context.
GUARD = '''
import json, time
def handler(event, context):
    token = (event.get("identitySource") or [None])[0] or event.get("authorizationToken") or event.get("headers", {}).get("authorization")
    told = {"asked": json.dumps(event), "team": "desk", "level": 3, "chief": True}
    if token == "stranger":
        raise Exception("Unauthorized")
    if token == "broken":
        raise Exception("no database")
    if token == "slow":
        time.sleep(5)
    if event.get("version") == "2.0" and token != "policy":
        return {"isAuthorized": token == "let-me-in", "context": told}
    arn = event.get("routeArn") or event["methodArn"]
    stage = "/".join(arn.split("/")[:2])
    statements = [{"Action": "execute-api:Invoke", "Effect": "Allow", "Resource": stage + "/GET/*"}, {"Action": "execute-api:Invoke", "Effect": "Deny", "Resource": "*/secret*"}]
    return {"principalId": "anna", "policyDocument": {"Version": "2012-10-17", "Statement": statements}, "context": told}
'''
MIRROR = "import json\ndef handler(event, context):\n    return {'statusCode': 200, 'headers': {'content-type': 'application/json'}, 'body': json.dumps(event)}\n"


@pytest.fixture(scope="module")
def lab(start_once):
    cloud = start_once(Ministack)
    cloud.function("guard", GUARD)
    for name in ("v2", "v1"):
        cloud.function(name, MIRROR)
    rules = "version: 1\nbackends:\n"
    for name in ("v2", "v1"):
        rules += f'  {name}: {{lambda: {{function: {name}, region: {REGION}, endpoint: "{cloud.url}", payload: {name}}}}}\n'
    rules += "routes:\n"
    for kind in ("v2", "v1", "token", "slow", "fresh"):
        side = "v1" if kind in ("v1", "token") else "v2"
        rules += f"  - {{id: {kind}, match: {{path: '/{kind}/{{item}}'}}, serverless: {side}, stage: serverless, require: {{authorizer: {kind}}}}}\n"
    url = f"{cloud.url}/2015-03-31/functions/guard/invocations"
    identity = "identity: [header.Authorization]"
    settings = f"""version: 1
authorizers:
  - {{name: v2, url: "{url}", {identity}, timeout: 20s}}
  - {{name: v1, url: "{url}", {identity}, event: v1, ttl: 1h, timeout: 20s, arn: "arn:aws:execute-api:{REGION}:123456789012:abc/prod"}}
  - {{name: token, url: "{url}", {identity}, event: token, timeout: 20s}}
  - {{name: slow, url: "{url}", {identity}, timeout: 300ms}}
  - {{name: fresh, url: "{url}", identity: [header.Authorization, query.tenant], ttl: 0s, timeout: 20s}}
"""
    return start_once(Banyan, rules, settings=settings, env=environment(ROOT_KEY))


def ask(banyan, path, token, method="GET"):
    return send(banyan.port, method, path, [("Authorization", token)] if token else [])


def test_a_simple_verdict_is_asked_for_once_and_its_context_reaches_the_function(lab):
    answer = ask(lab, "/v2/7?a=1", "let-me-in")
    assert answer.status == 200, answer
    told = answer.json()["requestContext"]["authorizer"]["lambda"]
    assert told["team"] == "desk" and told["level"] == 3 and told["chief"] is True
    # What AWS documents of the question.
    asked = json.loads(told["asked"])
    assert asked["version"] == "2.0" and asked["type"] == "REQUEST" and asked["identitySource"] == ["let-me-in"]
    assert asked["routeArn"] == "arn:aws:execute-api:us-east-1:000000000000:banyan/$default/GET/v2/7"
    assert asked["rawPath"] == "/v2/7" and asked["rawQueryString"] == "a=1" and asked["queryStringParameters"] == {"a": "1"} and asked["pathParameters"] == {"item": "7"}
    assert asked["headers"]["authorization"] == "let-me-in" and asked["requestContext"]["http"]["method"] == "GET"
    assert "body" not in asked and "isBase64Encoded" not in asked
    for _ in range(5):
        assert ask(lab, "/v2/8", "let-me-in").status == 200
    assert lab.metric("banyan_authorizer_calls_total", authorizer="v2", outcome="verdict") == 1
    denied = ask(lab, "/v2/7", "nobody")
    assert denied.status == 403 and denied.body == b'{"message":"Forbidden"}'
    assert ask(lab, "/v2/7", "nobody").status == 403
    assert lab.metric("banyan_authorizer_calls_total", authorizer="v2", outcome="verdict") == 2, "a denial is kept as well"
    lab.counts(2, "banyan_refused_total", cause="authorizer_denied")


def test_who_says_nothing_is_refused_unasked_and_a_failure_lets_nobody_in(lab):
    before = lab.metric("banyan_authorizer_calls_total", authorizer="v2") or 0
    missing = ask(lab, "/v2/7", None)
    assert missing.status == 401 and missing.body == b'{"message":"Unauthorized"}'
    assert (lab.metric("banyan_authorizer_calls_total", authorizer="v2") or 0) == before
    stranger = ask(lab, "/v2/7", "stranger")
    assert stranger.status == 401 and stranger.body == b'{"message":"Unauthorized"}'
    for count in (1, 2):
        broken = ask(lab, "/v2/7", "broken")
        assert broken.status == 503 and header(broken.headers, "retry-after") == "1"
        assert lab.metric("banyan_authorizer_calls_total", authorizer="v2", outcome="failed") == count, "a failure is not kept"
    begun = time.monotonic()
    assert ask(lab, "/slow/7", "slow").status == 503 and time.monotonic() - begun < 3
    for cause in ("authorizer_no_identity", "authorizer_unknown", "authorizer_away"):
        wait_for(cause, lambda cause=cause: (lab.metric("banyan_refused_total", cause=cause) or 0) >= 1)
    assert "let-me-in" not in lab.text() + lab.access_path.read_text()


@pytest.mark.parametrize("kind", ["v1", "token"])
def test_a_policy_is_judged_for_each_request_and_asked_for_once(lab, kind):
    answer = ask(lab, f"/{kind}/7", "policy")
    assert answer.status == 200, answer
    told = answer.json()["requestContext"]["authorizer"]
    # A REST API gives the context flat and as text, beside the principal.
    assert told["principalId"] == "anna" and told["level"] == "3" and told["chief"] == "true"
    asked = json.loads(told["asked"])
    arn = f"arn:aws:execute-api:{REGION}:123456789012:abc/prod" if kind == "v1" else "arn:aws:execute-api:us-east-1:000000000000:banyan/$default"
    assert asked["methodArn"] == f"{arn}/GET/{kind}/7"
    if kind == "v1":
        assert asked["type"] == "REQUEST" and asked["httpMethod"] == "GET" and asked["path"] == "/v1/7" and asked["pathParameters"] == {"item": "7"}
        assert asked["multiValueHeaders"]["authorization"] == ["policy"] and "body" not in asked
    else:
        assert asked == {"type": "TOKEN", "authorizationToken": "policy", "methodArn": f"{arn}/GET/token/7"}
    assert ask(lab, f"/{kind}/8", "policy").status == 200
    assert ask(lab, f"/{kind}/8", "policy", "POST").status == 403
    assert ask(lab, f"/{kind}/secret-9", "policy").status == 403
    assert lab.metric("banyan_authorizer_calls_total", authorizer=kind, outcome="verdict") == 1


def test_all_of_an_identity_counts_and_without_a_ttl_everybody_is_asked_about(lab):
    assert ask(lab, "/fresh/7?tenant=a", "let-me-in").status == 200
    assert ask(lab, "/fresh/7?tenant=a", "let-me-in").status == 200
    assert ask(lab, "/fresh/7", "let-me-in").status == 401
    assert lab.metric("banyan_authorizer_calls_total", authorizer="fresh", outcome="verdict") == 2


class Verdicts:
    """An authorizer of our own making that can go away."""

    def __init__(self):
        self.answer, self.status, self.asked = {"isAuthorized": True}, 200, 0
        verdicts = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                verdicts.asked += 1
                self.rfile.read(int(self.headers["Content-Length"]))
                body = json.dumps(verdicts.answer).encode()
                self.send_response(verdicts.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/allow"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def test_verdicts_end_and_an_authorizer_that_is_away_lets_nobody_in(start):
    verdicts, port = Verdicts(), lease_port()
    start(Nginx, f"server {{ listen 127.0.0.1:{port}; location / {{ return 200 ok; }} }}", port=port)
    rules = f'version: 1\nbackends: {{b: {{urls: ["http://127.0.0.1:{port}"]}}}}\nroutes: [{{id: r, match: {{prefix: /}}, legacy: b, require: {{authorizer: door}}}}]\n'
    banyan = start(Banyan, rules, f'version: 1\nauthorizers: [{{name: door, url: "{verdicts.url}", identity: [header.X-Who], ttl: 1s}}]\n')
    who = lambda name: send(banyan.port, "GET", "/", [("X-Who", name)]).status  # noqa: E731
    assert [who("a"), who("a"), who("b")] == [200, 200, 200] and verdicts.asked == 2
    verdicts.answer = {"isAuthorized": False}
    wait_for("the verdict's end", lambda: who("a") == 403)
    for verdicts.status, verdicts.answer, expected in [(401, {}, 401), (500, {"isAuthorized": True}, 503), (200, {}, 503), (200, {"isAuthorized": "true"}, 503), (200, [], 503), (200, {"isAuthorized": True}, 200)]:
        assert who(f"c{expected}{verdicts.status}{verdicts.answer}") == expected, (verdicts.status, verdicts.answer)
    # HUP: everybody is asked about again.
    asked = verdicts.asked
    assert who("long") == 200
    banyan.popen.send_signal(1)
    wait_for("another question", lambda: who("long") == 200 and verdicts.asked >= asked + 2)
    verdicts.server.shutdown()
    verdicts.server.server_close()
    wait_for("nobody to ask", lambda: who("d") == 503)
    assert banyan.api("/readyz")[0] == 200


def test_names_of_authorizers_are_checked(start):
    rules = 'version: 1\nbackends: {b: {urls: ["http://127.0.0.1:1"]}}\nroutes: [{id: r, match: {prefix: /}, legacy: b, require: {authorizer: door}}]\n'
    banyan = start(Banyan, rules, wait=False)
    banyan.popen.wait(20)
    assert banyan.popen.returncode == 1 and "authorizer_unknown" in banyan.text() + banyan.access_path.read_text()
    for field, why in [('url: "ftp://x/", identity: [client.ip]', "http://"), ('url: "http://x/", identity: []', "without identity"), ('url: "http://x/", identity: [client.ip], ttl: 2h', "1h"), ('url: "http://x/", identity: [who]', "is not a key")]:
        refused = start(Banyan, rules, f"version: 1\nauthorizers: [{{name: door, {field}}}]\n", wait=False)
        refused.popen.wait(20)
        assert refused.popen.returncode == 64 and why in refused.text(), (field, refused.text())
