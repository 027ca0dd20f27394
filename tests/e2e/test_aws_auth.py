"""Who we are to AWS and how we prove it: signatures that a server checks, credentials from every source, tokens for other clouds,
and the knobs of private APIs. The server is ministack with AUTH=true; keys are those it really checks."""

import base64
import contextlib
import http.server
import json
import threading
import time

import pytest
from conftest import Banyan, Nginx, header, lease_port, wait_for
from emulators import ACCOUNT, REGION, ROOT_KEY, Ministack, environment, send

ECHO = '''
import json
def handler(event, context):
    print("x")
    return {"statusCode": 200, "headers": {"content-type": "application/json"}, "body": json.dumps(event)}
'''
JSON = [("Content-Type", "application/json")]


@pytest.fixture(scope="module")
def cloud(start_once):
    cloud = start_once(Ministack, auth=True)
    cloud.arn = cloud.function("echo", ECHO)
    cloud.url_host = cloud.function_url("echo", auth="AWS_IAM")
    cloud.key = cloud.user("caller", "lambda:InvokeFunction", "lambda:InvokeFunctionUrl", "execute-api:Invoke")
    return cloud


def invoking(cloud, region=REGION):
    return (f'version: 1\nbackends: {{f: {{lambda: {{function: echo, region: {region}, endpoint: "{cloud.url}"}}}}}}\n'
            "routes: [{id: f, match: {prefix: /}, serverless: f, stage: serverless}]\n")


def test_a_call_is_accepted_and_each_refusal_says_which_it_was(start, cloud):
    banyan = start(Banyan, invoking(cloud), env=environment(cloud.key))
    assert send(banyan.port, "POST", "/a%20b?x=1", JSON, b'{"a":1}').json()["body"] == '{"a":1}'
    stranger = cloud.user("stranger")
    ended = cloud.session("lambda-role", 1)
    time.sleep(2)  # The shortest life a session can have; nothing tells its end.
    wrong_secret = (cloud.key[0], "x" * 40, None)
    unknown = ("AKIAUNKNOWNUNKNOWN99", "x" * 40, None)
    cases = [
        (wrong_secret, REGION, "signature_refused", "signature we calculated does not match"),
        (unknown, REGION, "credentials_refused", "security token included in the request is invalid"),
        (ended, REGION, "credentials_expired", "included in the request is expired"),
        (stranger, REGION, "lambda_access_denied", "not authorized to perform"),
        (cloud.key, "us-east-1", "function_not_found", "us-east-1"),
    ]
    for key, region, code, words in cases:
        banyan = start(Banyan, invoking(cloud, region), env=environment(key))
        answer = send(banyan.port, "GET", "/")
        assert answer.status == 502 and code.replace("_", " ").encode() in answer.body, (code, answer)
        assert words.encode() not in answer.body, "what AWS says is for the log"
        line = banyan.log_lines(1)[0]
        assert line["cause"] == code and words in line["detail"], line
        banyan.counts(1, "banyan_lambda_errors_total", backend="f", code=code)


def url_rules(cloud, port, extra=""):
    return f"""
version: 1
defaults: {{encoded_slash: allow}}
backends:
  url: {{urls: ["http://127.0.0.1:{port}"], host: "{cloud.url_host}", sign: {{service: lambda, region: {REGION}{extra}}}}}
routes: [{{id: url, match: {{prefix: /}}, serverless: url, stage: serverless}}]
"""


def test_function_urls_and_whatever_else_takes_signatures(start, cloud):
    assert send(cloud.port, "GET", "/", host=cloud.url_host).status == 403
    banyan = start(Banyan, url_rules(cloud, cloud.port), env=environment(cloud.key))
    binary = bytes(range(256))
    for method, target, headers, body in [
        ("GET", "/", [], None), ("GET", "/a/b?x=1&y=2", [], None), ("GET", "/a%20b/%E4%BD%A0?z=%20&a=%2F", [], None), ("GET", "/a%2Fb", [], None),
        ("GET", "/x?b=2&a=1&a=0", [("X-A", "1"), ("X-A", "2")], None), ("DELETE", "/x", [], None), ("GET", "/~-._", [("Cookie", "a=1")], None),
        ("POST", "/x", JSON, b'{"a":1}'), ("POST", "/x", [], b"untyped"), ("PUT", "/x", [("Content-Type", "image/png")], binary),
        ("POST", "/x", JSON, b""), ("POST", "/x", [("Content-Type", "text/plain")], b"x" * 100_000), ("POST", "/x", [("Content-Type", "image/png")], binary * 8192),
        # Proofs of the client's own have no meaning here and must not spoil ours.
        ("POST", "/x", [("Authorization", "Bearer c"), ("X-Amz-Date", "20200101T000000Z"), ("X-Amz-Security-Token", "t"), ("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")], b"b"),
        ("GET", "/x", [("X-Amz-Meta-Client", "  spaces   inside ")], None),
    ]:
        answer = send(banyan.port, method, target, headers, body)
        assert answer.status == 200, (method, target, headers, answer)
        event = answer.json()
        got = event.get("body") or ""
        got = base64.b64decode(got) if event["isBase64Encoded"] else got.encode()
        assert got == (body or b"") and "Bearer c" not in json.dumps(event), (method, target)
    assert send(banyan.port, "HEAD", "/x").status == 200
    # A body without a length is read whole all the same.
    answer = send(banyan.port, "POST", "/x", [("Transfer-Encoding", "chunked"), ("Content-Type", "text/plain")], iter([b"one ", b"two"]))
    assert answer.json()["body"] == "one two"
    banyan.counts(0, "banyan_signature_refused_total", backend="url")
    banyan.counts(0, "banyan_buffered_bytes")


def test_the_clients_authorization_is_moved_or_dropped_and_bodies_are_bounded(start, cloud):
    banyan = start(Banyan, url_rules(cloud, cloud.port, ", move_authorization_to: X-Client-Authorization, max_body: 64KiB"), env=environment(cloud.key))
    event = send(banyan.port, "POST", "/", [("Authorization", "Bearer mine")], b"x").json()
    assert event["headers"]["x-client-authorization"] == "Bearer mine" and event["headers"]["authorization"].startswith("AWS4-HMAC-SHA256")
    assert send(banyan.port, "POST", "/", JSON, b"x" * 65_536).status == 200
    for headers, body in ((JSON, b"x" * 65_537), ([("Transfer-Encoding", "chunked")], iter([b"x" * 40_000] * 2))):
        answer = send(banyan.port, "POST", "/", headers, body)
        assert answer.status == 413 and b"body too large to sign" in answer.body


def test_what_is_changed_behind_the_signature_is_refused_by_the_server(start, cloud):
    tampers = {"path": "rewrite ^ /other break;", "query": "set $args evil=1;", "host": "", "body": 'proxy_set_body "evil";'}
    for what, directive in tampers.items():
        port = lease_port()
        host = "$http_host" if what != "host" else cloud.url_host.replace(cloud.url_host[:4], "zzzz")
        start(Nginx, f"server {{ listen 127.0.0.1:{port}; location / {{ {directive} proxy_set_header Host {host}; proxy_pass http://127.0.0.1:{cloud.port}; }} }}", port=port)
        banyan = start(Banyan, url_rules(cloud, port), env=environment(cloud.key))
        answer = send(banyan.port, "POST", "/x?a=1", JSON, b'{"a":1}')
        if what == "host":
            assert answer.status in (403, 404), answer
            continue
        assert answer.status == 403 and b"signature" in answer.body, (what, answer)
        banyan.counts(1, "banyan_signature_refused_total", backend="url")
        assert banyan.log_lines(1)[0]["detail"] == "InvalidSignatureException"


def test_a_private_api_is_reached_by_knobs_that_are_separate(start, cloud, certificates):
    api = cloud.rest_api(cloud.arn, stage="prod", auth="AWS_IAM")
    host, tls = f"{api}.execute-api.localhost", lease_port()
    # What an interface endpoint is: another name and another address than the API's.
    start(Nginx, f"""
map "" $empty {{ default ""; }}
server {{ listen 127.0.0.1:{tls} ssl; ssl_certificate {certificates}/server.pem; ssl_certificate_key {certificates}/server.key;
  location / {{ add_header X-Sni $ssl_server_name; add_header X-Api $http_x_apigw_api_id; proxy_set_header Host $http_host; proxy_pass http://127.0.0.1:{cloud.port}; }} }}""", tls=tls)
    banyan = start(Banyan, f"""
version: 1
backends:
  api:
    urls: ["https://127.0.0.1:{tls}"]
    host: {host}
    tls: {{ca: {certificates}/ca.pem, server_name: shop.example.com}}
    path_prefix: /prod
    headers: {{X-Apigw-Api-Id: "{api}"}}
    sign: {{service: execute-api, region: {REGION}}}
routes: [{{id: api, match: {{prefix: /shop}}, serverless: api, stage: serverless, rewrite: {{prefix: /v2}}}}]
""", env=environment(cloud.key))
    for method, body in (("GET", None), ("POST", b'{"a":1}')):
        answer = send(banyan.port, method, "/shop/items?x=1", JSON, body)
        assert answer.status == 200, answer
        assert (answer.header("x-sni"), answer.header("x-api")) == ("shop.example.com", api)
        event = answer.json()
        assert event["path"] == "/v2/items" and event["requestContext"]["path"] == "/prod/v2/items" and event["headers"]["host"] == host
    explained = banyan.cli("routes")
    assert explained.returncode == 0


def test_a_usage_plan_takes_the_key_of_the_backend_and_its_limit_falls_back(start, cloud):
    api = cloud.rest_api(cloud.arn, key_required=True)
    key = cloud.api_key(api, throttle={"rateLimit": 1, "burstLimit": 2})
    legacy = lease_port()
    start(Nginx, f'server {{ listen 127.0.0.1:{legacy}; location / {{ return 200 "legacy"; }} }}', port=legacy)
    banyan = start(Banyan, f"""
version: 1
backends:
  old: {{urls: ["http://127.0.0.1:{legacy}"]}}
  api: {{urls: ["{cloud.url}"], host: {api}.execute-api.localhost, path_prefix: /prod, headers: {{X-Api-Key: {key}}}}}
  keyless: {{urls: ["{cloud.url}"], host: {api}.execute-api.localhost, path_prefix: /prod}}
routes:
  - {{id: api, match: {{prefix: /api}}, legacy: old, serverless: api, stage: serverless, fallback: {{to: legacy, on: [429]}}}}
  - {{id: keyless, match: {{prefix: /keyless}}, serverless: keyless, stage: serverless}}
""")
    assert send(banyan.port, "GET", "/keyless").status == 403
    answers = [send(banyan.port, "GET", "/api/x") for _ in range(6)]
    assert {answer.status for answer in answers} == {200}
    reasons = [header(answer.headers, "x-banyan").split("reason=")[1].split(",")[0] for answer in answers]
    assert reasons[0] == "stage" and "fallback" in reasons, reasons


class Metadata:
    """A metadata service: what it answers, by path, and what it was asked."""

    end_signal = None

    def __init__(self, folder, answer):
        self.asked = []
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                service.asked.append((self.path, dict(self.headers)))
                status, body = answer(self.path, self.headers, len(service.asked))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self, *_):
        self.server.shutdown()
        self.server.server_close()


def state(banyan):
    return banyan.api("/api/v1/backends")[1]["credentials"]


def test_credentials_come_from_profile_web_identity_container_and_instance(start, cloud, tmp_path):
    no_metadata = {"AWS_EC2_METADATA_DISABLED": "true"}
    files = {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"), "AWS_CONFIG_FILE": str(tmp_path / "config")}
    (tmp_path / "credentials").write_text(f"[bank]\naws_access_key_id = {cloud.key[0]}\naws_secret_access_key = {cloud.key[1]}\n")
    (tmp_path / "config").write_text("[profile bank]\nregion = eu-west-1\n")
    (tmp_path / "token").write_text("eyJhbGciOiJub25lIn0." + base64.urlsafe_b64encode(json.dumps({"iss": "https://issuer.example.com", "sub": "s", "aud": "sts.amazonaws.com"}).encode()).decode().rstrip("=") + ".x")
    cloud.role("web", "lambda:InvokeFunction", principal=f"arn:aws:iam::{ACCOUNT}:oidc-provider/issuer.example.com")
    web = {"AWS_ROLE_ARN": f"arn:aws:iam::{ACCOUNT}:role/web", "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"), "AWS_ROLE_SESSION_NAME": "s",
           "AWS_ENDPOINT_URL_STS": cloud.url, "AWS_REGION": REGION}
    # The emulator's own instance and container roles are unknown to its checks, so these two are asked of one that does not check.
    lax = start(Ministack, MINISTACK_IMDS_V2_REQUIRED=1)
    lax.function("echo", ECHO)
    container = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{lax.url}/v2/credentials/x"}
    instance = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": lax.url}
    for source, where, env in [("environment", cloud, environment(cloud.key)), ("profile", cloud, {**no_metadata, **files, "AWS_PROFILE": "bank"}),
                               ("web_identity", cloud, {**no_metadata, **web}), ("container", lax, {**no_metadata, **container}), ("instance", lax, instance)]:
        banyan = start(Banyan, invoking(where), env={"HOME": str(tmp_path), **env})
        answer = send(banyan.port, "GET", "/")
        assert answer.status == 200, (source, answer, state(banyan), banyan.text())
        told = state(banyan)
        assert (told["state"], told["source"]) == ("available", source), told
        assert ("expires" in told) == (source not in ("environment", "profile")), told
        assert banyan.metric("banyan_credentials_available") == 1
        assert cloud.key[1] not in banyan.text() + json.dumps(told)
        banyan.stop()


def test_credentials_are_refreshed_before_they_end_and_their_absence_is_a_state(start, tmp_path):
    lax = start(Ministack)
    lax.function("echo", ECHO)
    working = threading.Event()
    working.set()

    def answer(path, headers, number):
        if not working.is_set():
            return 503, b"later"
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 5))
        return 200, json.dumps({"AccessKeyId": f"ASIA{number:016}", "SecretAccessKey": "s" * 40, "Token": "t", "Expiration": until}).encode()

    metadata = start(Metadata, answer)
    legacy = lease_port()
    start(Nginx, f'server {{ listen 127.0.0.1:{legacy}; location / {{ return 200 "legacy"; }} }}', port=legacy)
    rules = f"""
version: 1
backends:
  old: {{urls: ["http://127.0.0.1:{legacy}"]}}
  f: {{lambda: {{function: echo, region: {REGION}, endpoint: "{lax.url}"}}}}
routes:
  - {{id: both, match: {{prefix: /both}}, legacy: old, serverless: f, stage: serverless}}
  - {{id: alone, match: {{prefix: /alone}}, serverless: f, stage: serverless}}
"""
    env = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://127.0.0.1:{metadata.port}/creds", "AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    banyan = start(Banyan, rules, env=env)
    # Through several lives of the key no call meets its end.
    keys = set()
    end = time.monotonic() + 8
    while time.monotonic() < end:
        assert send(banyan.port, "GET", "/alone").status == 200
        keys.add(state(banyan)["expires"])
    assert len(keys) >= 3 and 3 <= len(metadata.asked) <= 12, (keys, len(metadata.asked))
    working.clear()
    wait_for("the end of the last key", lambda: state(banyan)["state"] == "expired", seconds=20)
    answer = send(banyan.port, "GET", "/alone")
    assert answer.status == 503 and b"credentials unavailable" in answer.body
    # Where there is a legacy side it answers, with a reason.
    answer = send(banyan.port, "GET", "/both")
    assert answer.body == b"legacy" and "reason=breaker" in header(answer.headers, "x-banyan")
    wait_for("the metric", lambda: banyan.metric("banyan_credentials_available") == 0)
    told = state(banyan)
    assert "503" in told["error"] or "later" in told["error"], told
    backend = next(backend for backend in banyan.api("/api/v1/backends")[1]["backends"] if backend["id"] == "f")
    assert (backend["available"], backend["unavailable_cause"]) == (False, "credentials_unavailable")
    working.set()
    wait_for("the way back", lambda: send(banyan.port, "GET", "/alone").status == 200, seconds=70)


def test_tokens_for_other_clouds_are_fetched_put_on_and_refreshed(start, tmp_path):
    part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")  # noqa: E731

    def answer(path, headers, number):
        if headers.get("Metadata-Flavor") != "Google" or "audience=https%3A%2F%2Frun%2Eexample%2Ecom" not in path:
            return 403, b""
        return 200, f"{part({'alg': 'RS256'})}.{part({'exp': int(time.time()) + 20, 'n': number})}.sig".encode()

    metadata, port = start(Metadata, answer), lease_port()
    start(Nginx, f'server {{ listen 127.0.0.1:{port}; location / {{ return 200 "$http_authorization|$http_x_secret"; }} }}', port=port)
    (tmp_path / "secret").write_text("first\n")
    url = f'urls: ["http://127.0.0.1:{port}"]'
    banyan = start(Banyan, f"""
version: 1
backends:
  run: {{{url}, token: {{source: google_id_token, audience: "https://run.example.com"}}}}
  file: {{{url}, token: {{source: file, path: {tmp_path}/secret, header: X-Secret}}}}
  none: {{{url}, token: {{source: file, path: {tmp_path}/nothing}}}}
routes:
  - {{id: run, match: {{prefix: /run}}, serverless: run, stage: serverless}}
  - {{id: file, match: {{prefix: /file}}, serverless: file, stage: serverless}}
  - {{id: none, match: {{prefix: /none}}, serverless: none, stage: serverless}}
""", env={"GCE_METADATA_HOST": f"127.0.0.1:{metadata.port}"})
    token = send(banyan.port, "GET", "/run", [("Authorization", "Bearer client")]).body.decode()
    assert token.startswith("Bearer ey") and token.endswith(".sig|"), token
    assert send(banyan.port, "POST", "/run", [], b"x" * 1000).body.decode() == token
    # The client cannot say it for us.
    assert send(banyan.port, "GET", "/file", [("X-Secret", "guess")]).body == b"|first"
    (tmp_path / "secret").write_text("sesame-2\n")
    wait_for("the new secret", lambda: send(banyan.port, "GET", "/file").body == b"|sesame-2")
    with contextlib.suppress(OSError):
        (tmp_path / "secret").unlink()
    assert send(banyan.port, "GET", "/file").body == b"|sesame-2"
    answer = send(banyan.port, "GET", "/none")
    assert answer.status == 503 and b"token unavailable" in answer.body
    wait_for("a fresh token", lambda: send(banyan.port, "GET", "/run").body.decode() != token, seconds=20)
    assert "sesame-2" not in banyan.text() and "Bearer" not in banyan.text()
