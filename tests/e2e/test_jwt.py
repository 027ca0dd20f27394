"""Tokens of clients: only what an issuer has signed, for us, now, by an algorithm that we allow; its claims as keys of cohorts and limits."""

import base64
import hashlib
import hmac
import http.server
import json
import subprocess
import threading
import time

import pytest
from conftest import BANYAN, Banyan, Nginx, header, lease_port, wait_for
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from emulators import send


def b64(data):
    return base64.urlsafe_b64encode(data if isinstance(data, bytes) else json.dumps(data).encode()).rstrip(b"=").decode()


def number(value, size=None):
    return b64(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


class Key:
    """A key of an issuer: signs, and has a place in its key set."""

    def __init__(self, algorithm, kid):
        self.algorithm, self.kid = algorithm, kid
        self.key = {"RS256": lambda: rsa.generate_private_key(65537, 2048), "PS256": lambda: rsa.generate_private_key(65537, 2048), "ES256": lambda: ec.generate_private_key(ec.SECP256R1()), "EdDSA": ed25519.Ed25519PrivateKey.generate}[algorithm]()

    def jwk(self):
        public = self.key.public_key()
        common = {"kid": self.kid, "use": "sig", "alg": self.algorithm}
        if self.algorithm in ("RS256", "PS256"):
            return {"kty": "RSA", "n": number(public.public_numbers().n), "e": number(public.public_numbers().e), **common}
        if self.algorithm == "ES256":
            return {"kty": "EC", "crv": "P-256", "x": number(public.public_numbers().x, 32), "y": number(public.public_numbers().y, 32), **common}
        return {"kty": "OKP", "crv": "Ed25519", "x": b64(public.public_bytes_raw()), **common}

    def sign(self, message):
        if self.algorithm == "RS256":
            return self.key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        if self.algorithm == "PS256":
            return self.key.sign(message, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
        if self.algorithm == "ES256":
            r, s = utils.decode_dss_signature(self.key.sign(message, ec.ECDSA(hashes.SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return self.key.sign(message)

    def token(self, head=None, **claims):
        now = int(time.time())
        claims = {"iss": "https://login.test/", "aud": "shop", "sub": "anna", "exp": now + 300, "scope": "orders.read orders.write", **claims}
        claims = {name: value for name, value in claims.items() if value is not None}
        message = f"{b64({'alg': self.algorithm, 'typ': 'JWT', 'kid': self.kid, **(head or {})})}.{b64(claims)}"
        return f"{message}.{b64(self.sign(message.encode()))}"


@pytest.fixture(scope="module")
def keys():
    return [Key("RS256", "r1"), Key("ES256", "e1"), Key("EdDSA", "o1"), Key("PS256", "p1")]


class Login:
    """Serves a key set, or an error."""

    def __init__(self, keys):
        self.set, self.status, self.asked = [key.jwk() for key in keys] + [{"kty": "oct", "k": "c2VjcmV0", "kid": "s"}], 200, 0
        login = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                login.asked += 1
                body = json.dumps({"keys": login.set}).encode()
                self.send_response(login.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks.json"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def settings(jwks, more=""):
    return f'version: 1\nattribution_header: true\nissuers: [{{name: main, issuer: "https://login.test/", jwks: "{jwks}", audiences: [shop, desk], algorithms: [RS256, ES256, EdDSA, PS256]{more}}}]\n'


@pytest.fixture
def origin(start):
    port = lease_port()
    start(Nginx, f"server {{ listen 127.0.0.1:{port}; location / {{ return 200 $http_authorization; }} }}", port=port)
    return port


def rules(port, route, more=""):
    return f'version: 1\nbackends: {{b: {{urls: ["http://127.0.0.1:{port}"]}}, c: {{urls: ["http://127.0.0.1:{port}"]}}}}\n{more}routes: [{{id: r, match: {{prefix: /}}, legacy: b, {route}}}]\n'


def ask(banyan, token, *more):
    return send(banyan.port, "GET", "/", ([("Authorization", f"Bearer {token}")] if token else []) + list(more))


def test_only_what_is_signed_for_us_and_now_is_let_through(start, origin, keys):
    login = Login(keys)
    banyan = start(Banyan, rules(origin, "require: {jwt: {issuer: main, scopes: [orders.read]}}"), settings(login.url))
    rs, es, ed, ps = keys
    now = int(time.time())
    for key in keys:
        assert ask(banyan, key.token()).status == 200, key.algorithm
    assert ask(banyan, rs.token(aud=["other", "desk"])).status == 200
    assert ask(banyan, rs.token(scope=None, scp=["orders.read"])).status == 200
    assert ask(banyan, rs.token(exp=now - 30)).status == 200, "within the skew of a minute"
    assert ask(banyan, rs.token(head={"kid": None})).status == 200
    missing = ask(banyan, None)
    assert missing.status == 401 and missing.body == b'{"message":"Unauthorized"}' and header(missing.headers, "www-authenticate") == "Bearer"
    stranger = Key("RS256", "r1")
    good = rs.token()
    head, payload, signature = good.split(".")
    # The oldest tricks: no signature, and the public key as the secret of another algorithm.
    none = f"{b64({'alg': 'none'})}.{payload}."
    hs_head = b64({"alg": "HS256", "kid": "r1"})
    confused = f"{hs_head}.{payload}.{b64(hmac.new(json.dumps(rs.jwk()).encode(), f'{hs_head}.{payload}'.encode(), hashlib.sha256).digest())}"
    refused = {
        "jwt_signature": [stranger.token(), f"{head}.{payload}.{b64(b'x' * 256)}", f"{head}.{b64({**json.loads(base64.urlsafe_b64decode(payload + '==')), 'sub': 'eve'})}.{signature}", rs.token(head={"kid": "nobody"}), good + "=", rs.token(head={"alg": "PS256"}), es.token(head={"kid": "r1"})],
        "jwt_algorithm": [confused, rs.token(head={"alg": "RS384"})],
        "jwt_expired": [rs.token(exp=now - 100)],
        "jwt_not_yet": [rs.token(nbf=now + 100)],
        "jwt_audience": [rs.token(aud="other"), rs.token(aud=None), rs.token(aud=["x"]), rs.token(aud={"shop": 1})],
        "jwt_malformed": [none, "x", "a.b.c", good + ".x", rs.token(iss="https://evil.test/"), rs.token(iss=None), rs.token(exp=None), rs.token(exp="soon"), rs.token(exp=-5), rs.token(nbf="later"), "a" * 20_000],
    }
    for cause, tokens in refused.items():
        for token in tokens:
            answer = ask(banyan, token)
            assert answer.status == 401 and "invalid_token" in header(answer.headers, "www-authenticate"), (cause, token[:80], answer)
        banyan.counts(len(tokens), "banyan_refused_total", cause=cause)
    assert ask(banyan, good, ("Authorization", "Bearer x")).status == 401, "two lines"
    assert send(banyan.port, "GET", "/", [("Authorization", f"Basic {good}")]).status == 401
    poor = ask(banyan, rs.token(scope="orders.write"))
    assert poor.status == 403 and poor.body == b'{"message":"Forbidden"}' and "insufficient_scope" in header(poor.headers, "www-authenticate")
    # The backend has it as it came; no log has it.
    assert good.encode() in ask(banyan, good).body
    assert good not in banyan.text() + banyan.access_path.read_text()


def test_keys_change_and_go_away_without_a_restart(start, origin, keys):
    login = Login(keys[:1])
    login.status = 500
    banyan = start(Banyan, rules(origin, "require: {jwt: {issuer: main}}"), settings(login.url, ", refresh: 1s"))
    answer = ask(banyan, keys[0].token())
    assert answer.status == 503 and header(answer.headers, "retry-after"), "nobody can be told apart yet"
    login.status = 200
    wait_for("the keys", lambda: ask(banyan, keys[0].token()).status == 200)
    login.set = [keys[1].jwk()]
    wait_for("the new key", lambda: ask(banyan, keys[1].token()).status == 200)
    token = keys[0].token()
    wait_for("the old key's end", lambda: ask(banyan, token).status == 401)
    login.status, before = 500, login.asked
    wait_for("another look", lambda: login.asked > before)
    assert ask(banyan, keys[1].token()).status == 200, "the last keys stay"
    login.server.shutdown()


def test_a_file_of_keys_is_read_again_on_hup(start, origin, keys, tmp_path):
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": [keys[0].jwk()]}))
    banyan = start(Banyan, rules(origin, "require: {jwt: {issuer: main}}"), settings(file))
    assert ask(banyan, keys[0].token()).status == 200 and ask(banyan, keys[1].token()).status == 401
    file.write_text(json.dumps({"keys": [keys[1].jwk()]}))
    banyan.popen.send_signal(1)
    wait_for("the new key", lambda: ask(banyan, keys[1].token()).status == 200)
    assert ask(banyan, keys[0].token()).status == 401


def test_claims_choose_the_side_and_the_limit(start, origin, keys):
    login = Login(keys)
    cohort = "cohorts: {people: {key: [jwt.sub], allow: [jwt.tier=staff], deny: [jwt.tier=vip]}}\n"
    route = "serverless: c, cohort: people, stage: canary, share: 40%"
    banyan = start(Banyan, rules(origin, route, cohort), settings(login.url))

    def side(token):
        return (header(ask(banyan, token).headers, "x-banyan") or "").partition("side=")[2].partition(",")[0]

    people = [keys[1].token(sub=f"user-{n}") for n in range(60)]
    first = [side(token) for token in people]
    assert 10 < first.count("serverless") < 40
    # The same person with another token, from anywhere, stays; a token that is not good is nobody's.
    assert [side(keys[2].token(sub=f"user-{n}")) for n in range(60)] == first
    assert side(keys[0].token(tier="staff")) == "serverless" and side(keys[0].token(tier="vip")) == "legacy"
    assert ask(banyan, "nonsense").status == 200, "nobody requires one here"
    forged = Key("RS256", "r1").token(tier="staff")
    assert {side(forged) for _ in range(3)} <= {"legacy", "serverless"} and "jwt" not in (header(ask(banyan, forged).headers, "x-banyan") or "")
    limited = start(Banyan, rules(origin, "require: {jwt: {issuer: main}}, limit: {key: jwt.sub, rate: 1/m, burst: 2}"), settings(login.url))
    assert [ask(limited, keys[0].token(sub="a")).status for _ in range(4)] == [200, 200, 429, 429]
    assert ask(limited, keys[0].token(sub="b")).status == 200


def test_issuers_are_checked(start, origin, tmp_path):
    banyan = start(Banyan, rules(origin, "require: {jwt: {issuer: other}}"), settings("/nowhere.json"), wait=False)
    banyan.popen.wait(20)
    assert banyan.popen.returncode == 1 and "issuer_unknown" in banyan.text() + banyan.access_path.read_text()
    for bad, why in [("jwks: x", "missing field"), ("jwks: x, audiences: []", "at least one"), ("jwks: x, audiences: [a], algorithms: [HS256]", "HS256")]:
        (tmp_path / "s.yaml").write_text(f"version: 1\nissuers: [{{name: m, issuer: i, {bad}}}]\n")
        out = subprocess.run([BANYAN, "run", "--rules", tmp_path, "--settings", tmp_path / "s.yaml"], capture_output=True, text=True, timeout=20)
        assert out.returncode == 64 and why in out.stdout + out.stderr, (bad, out)
