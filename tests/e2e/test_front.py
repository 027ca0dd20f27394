"""The front face: matching, sides, rewrites, edits, direct answers, errors. curl against real nginx."""

import json
import socket

import pytest

from conftest import Airline, Banyan, Nginx, curl, header, lease_port, wait_for

ECHO = """
server {{ listen 127.0.0.1:{a}; location / {{ add_header X-Seen-Host $http_host always; add_header X-Seen-Uri $request_uri always;
  add_header X-Seen-Tenant $http_x_tenant always; add_header X-Seen-Trail $http_x_trail always; add_header X-Seen-Debug "[$http_x_debug]" always;
  add_header X-Seen-For "$http_x_forwarded_for" always; add_header X-Seen-Proto $http_x_forwarded_proto always; add_header X-Seen-Via $http_via always;
  add_header X-Seen-Trace $http_traceparent always; add_header X-Seen-Override "[$http_x_banyan_override]" always; return 200 "legacy\\n"; }}
  location /away {{ return 302 http://127.0.0.1:{a}/assets/login; }}
  location /elsewhere {{ return 302 http://other.example/x; }}
  location /cookie {{ add_header Set-Cookie "S=1; Domain=internal.bank; Path=/; HttpOnly"; add_header Set-Cookie "T=2; Path=/"; return 200 "c"; }}
  location /broken {{ return 503 "legacy says no\\n"; }} }}
server {{ listen 127.0.0.1:{b}; location / {{ add_header X-Seen-Host $http_host always; add_header X-Seen-Uri $request_uri always; return 200 "serverless\\n"; }}
  location /broken {{ return 503 "no\\n"; }} }}
"""

RULES = """
version: 1
defaults: {{legacy: old}}
backends:
  old: {{urls: ["http://127.0.0.1:{a}"]}}
  new: {{urls: ["http://127.0.0.1:{b}"], host: backend}}
  named: {{urls: ["http://127.0.0.1:{a}"], host: core.bank.internal}}
  dead: {{urls: ["http://127.0.0.1:{dead}"]}}
cohorts:
  user: {{key: [cookie.SESSIONID, header.X-User], allow: [header.X-Staff=true], deny: [header.X-Tenant=acme]}}
routes:
  - {{id: half, match: {{path: "/half/{{id}}"}}, legacy: old, serverless: new, cohort: user, stage: canary, share: 50%}}
  - {{id: anon, match: {{path: /anon}}, legacy: old, serverless: new, stage: canary, share: 50%}}
  - {{id: all, match: {{prefix: /all}}, legacy: old, serverless: new, stage: serverless, rewrite: {{prefix: /v2, side: serverless}}}}
  - {{id: named, match: {{prefix: /named}}, legacy: named, stage: legacy}}
  - {{id: static, match: {{prefix: /static}}, legacy: old, stage: legacy, rewrite: {{prefix: /assets, host: static.internal, location: public}}}}
  - {{id: away, match: [{{path: /away}}, {{path: /elsewhere}}], legacy: old, stage: legacy, rewrite: {{location: public}}}}
  - {{id: cookie, match: {{path: /cookie}}, legacy: old, stage: legacy, rewrite: {{cookie_domain: shop.example.com}}}}
  - id: edits
    match: {{prefix: /edits}}
    legacy: old
    stage: legacy
    request_headers: {{set: {{X-Tenant: bank}}, add: {{X-Trail: banyan}}, remove: [X-Debug]}}
    response_headers: {{set: {{X-Frame-Options: DENY}}, remove: [Server]}}
  - {{id: go, match: {{path: /index.do}}, redirect: {{scheme: https, host: shop.example.com, path: /, status: 308}}}}
  - {{id: go-prefix, match: {{prefix: /old}}, redirect: {{prefix: /new, status: 301}}}}
  - {{id: closed, match: {{prefix: /beta}}, respond: {{status: 503, headers: {{Retry-After: "3600"}}, body: closed for now}}}}
  - {{id: cors, match: {{prefix: /cors}}, legacy: old, stage: legacy, cors: {{origins: ["https://shop.example.com"], methods: [GET, PUT], headers: [X-Tenant], credentials: true, max_age: 1h}}}}
  - {{id: fall, match: {{prefix: /fall}}, legacy: old, serverless: dead, stage: serverless, effects: unsafe, fallback: {{to: legacy, on: [connect]}}}}
  - {{id: fall-status, match: {{path: /broken}}, legacy: new, serverless: old, stage: serverless, fallback: {{to: legacy, on: [503]}}}}
  - {{id: gone, match: {{prefix: /gone}}, serverless: new, stage: retired}}
  - {{id: dead, match: {{prefix: /dead}}, legacy: dead, stage: legacy}}
"""


@pytest.fixture
def front(start):
    a, b, dead = lease_port(), lease_port(), lease_port()
    start(Nginx, ECHO.format(a=a, b=b), a=a, b=b)
    banyan = start(Banyan, RULES.format(a=a, b=b, dead=dead))
    banyan.a, banyan.b = a, b
    return banyan


def attribution(headers):
    return dict(part.split("=", 1) for part in header(headers, "x-banyan").split(", "))


def test_every_answer_says_route_side_reason_and_revision(front):
    status, headers, body = curl(front.url + "/unclaimed/x?q=1")
    assert (status, body) == (200, b"legacy\n")
    said = attribution(headers)
    assert said == {"route": "default", "side": "legacy", "reason": "stage", "revision": front.revision()}
    line = front.log_lines(1)[0]
    assert (line["route"], line["side"], line["reason"], line["revision"]) == ("default", "legacy", "stage", said["revision"])
    assert line["url.path"] == "/unclaimed/x" and "q=1" not in json.dumps(line)
    front.counts(1, "banyan_requests_total", route="default", side="legacy", reason="stage", code="200")
    front.counts(1, "banyan_unclaimed_total")


def test_a_user_keeps_a_side_and_the_share_is_kept(front):
    sides = {}
    for user in range(200):
        _, headers, body = curl("-b", f"SESSIONID=u{user}", f"{front.url}/half/1")
        sides[user] = body
        assert attribution(headers)["reason"] == "bucket"
    # 3 sigma of a binomial with n = 200, p = 1/2.
    assert 79 <= sum(body == b"serverless\n" for body in sides.values()) <= 121
    for user in range(0, 200, 10):
        assert curl("-b", f"SESSIONID=u{user}", f"{front.url}/half/2")[2] == sides[user]


def test_deny_beats_allow_beats_the_bucket(front):
    for user in range(5):
        base = ["-H", f"X-User: {user}", f"{front.url}/half/1"]
        assert attribution(curl("-H", "X-Staff: true", *base)[1])["reason"] == "allow"
        _, headers, body = curl("-H", "X-Staff: true", "-H", "X-Tenant: acme", *base)
        assert (attribution(headers)["reason"], body) == ("deny", b"legacy\n")


def test_a_stranger_gets_our_cookie_and_keeps_the_side_with_it(front):
    for _ in range(8):
        _, headers, body = curl(front.url + "/anon")
        cookie = header(headers, "set-cookie")
        name, _, rest = cookie.partition("=")
        key = rest.split(";")[0]
        assert name == "__Host-banyan" and len(key) == 32 and "HttpOnly" in cookie and "SameSite=Lax" in cookie
        assert "Secure" not in cookie
        _, headers, again = curl("-b", f"__Host-banyan={key}", front.url + "/anon")
        assert again == body and header(headers, "set-cookie") is None


def test_rewrites_of_path_host_location_and_cookie_domain(front):
    _, headers, body = curl(front.url + "/all/x%20y?q=%2F")
    assert (body, header(headers, "x-seen-uri"), header(headers, "x-seen-host")) == (b"serverless\n", "/v2/x%20y?q=%2F", f"127.0.0.1:{front.b}")
    assert header(curl(front.url + "/named/x")[1], "x-seen-host") == "core.bank.internal"
    _, headers, _ = curl("-H", "Host: shop.example.com", front.url + "/static/a.css")
    assert (header(headers, "x-seen-uri"), header(headers, "x-seen-host")) == ("/assets/a.css", "static.internal")
    assert header(curl("-H", "Host: shop.example.com", front.url + "/away")[1], "location") == "http://shop.example.com/assets/login"
    assert header(curl(front.url + "/elsewhere")[1], "location") == "http://other.example/x"
    cookies = [value for name, value in curl(front.url + "/cookie")[1] if name == "set-cookie"]
    assert cookies == ["S=1; Domain=shop.example.com; Path=/; HttpOnly", "T=2; Path=/"]


def test_header_edits_forwarding_and_trace(front):
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    strangers = ["-H", "X-Forwarded-For: 6.6.6.6", "-H", "X-Forwarded-Proto: https", "-H", "X-Banyan-Override: side=serverless"]
    _, headers, _ = curl("-H", "X-Debug: 1", "-H", f"traceparent: {parent}", *strangers, front.url + "/edits/x")
    assert header(headers, "x-seen-tenant") == "bank" and header(headers, "x-seen-trail") == "banyan"
    assert header(headers, "x-seen-debug") == "[]" and header(headers, "x-frame-options") == "DENY" and header(headers, "server") is None
    assert header(headers, "x-seen-for") == "127.0.0.1" and header(headers, "x-seen-proto") == "http"
    assert header(headers, "x-seen-via") == "1.1 banyan" and header(headers, "x-seen-override") == "[]"
    trace = header(headers, "x-seen-trace")
    assert trace.startswith("00-4bf92f3577b34da6a3ce929d0e0e4736-") and trace != parent and trace.endswith("-01")
    assert front.log_lines(1)[0]["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"


def test_redirects_direct_answers_and_preflights(front):
    status, headers, _ = curl(front.url + "/index.do?a=1")
    assert (status, header(headers, "location")) == (308, "https://shop.example.com/?a=1")
    status, headers, _ = curl("-H", "Host: h.test:81", front.url + "/old/a/b")
    assert (status, header(headers, "location")) == (301, "http://h.test:81/new/a/b")
    status, headers, body = curl(front.url + "/beta/x")
    assert (status, header(headers, "retry-after"), body) == (503, "3600", b"closed for now")
    ask = ["-X", "OPTIONS", "-H", "Access-Control-Request-Method: PUT", front.url + "/cors/x"]
    status, headers, _ = curl("-H", "Origin: https://shop.example.com", *ask)
    assert status == 204 and header(headers, "access-control-allow-origin") == "https://shop.example.com"
    assert header(headers, "access-control-allow-methods") == "GET, PUT" and header(headers, "access-control-max-age") == "3600"
    assert header(headers, "access-control-allow-credentials") == "true"
    assert header(curl("-H", "Origin: https://evil.test", *ask)[1], "access-control-allow-origin") is None
    _, headers, body = curl("-H", "Origin: https://shop.example.com", front.url + "/cors/x")
    assert body == b"legacy\n" and header(headers, "access-control-allow-origin") == "https://shop.example.com"


def test_a_failed_try_on_serverless_falls_back(front):
    _, headers, body = curl("-X", "POST", "-d", "x" * 1000, front.url + "/fall/x")
    assert (attribution(headers)["side"], attribution(headers)["reason"], body) == ("legacy", "fallback", b"legacy\n")
    status, headers, _ = curl(front.url + "/broken")
    assert (status, attribution(headers)["reason"]) == (503, "fallback")
    front.counts(1, "banyan_fallbacks_total", route="fall")


def test_errors_are_told_apart_short_and_carry_the_id_of_the_log(front):
    cases = {"/a/../b": 400, "//a": 400, "/a%2fb": 400, "/a%00": 400, "/a;x=1": 400, "/dead/x": 502}
    for path, expected in cases.items():
        status, headers, body = curl("--path-as-is", front.url + path)
        assert status == expected, path
        text = body.decode()
        identity = header(headers, "x-request-id")
        assert text.startswith(str(expected)) and f"id: {identity}" in text and len(text) < 200 and "127.0.0.1" not in text
        line = front.log_lines(1, lambda line: line["trace_id"] == identity)[0]
        assert line["http.response.status_code"] == expected and line["cause"]


def test_kill_switches_by_file_at_three_levels(front):
    def reason():
        return attribution(curl("-H", "X-Staff: true", "-H", "X-User: 1", front.url + "/half/1")[1])["reason"]

    assert reason() == "allow"
    for name in ["KILL", "KILL.half"]:
        (front.state / name).touch()
        wait_for("the kill", lambda: reason() == "kill", seconds=3)
        (front.state / name).unlink()
        wait_for("the end of the kill", lambda: reason() == "allow", seconds=3)
    assert attribution(curl(front.url + "/dead/x")[1])["route"] == "dead", "errors are attributed as well"
    assert attribution(curl(front.url + "/beta/x")[1])["side"] == "none"
    (front.state / "KILL.gone").touch()
    wait_for("503 where there is no way back", lambda: curl(front.url + "/gone/x")[0] == 503, seconds=3)
    assert b"killed without legacy" in curl(front.url + "/gone/x")[2]


def test_no_route_and_no_default_is_404(start):
    port = lease_port()
    banyan = start(Banyan, f'version: 1\nbackends: {{b: {{urls: ["http://127.0.0.1:{port}"]}}}}\nroutes: [{{id: a, match: {{path: /a}}, legacy: b}}]\n')
    status, _, body = curl(banyan.url + "/b")
    assert status == 404 and b"no route" in body


def test_limits_are_413_431_and_a_missing_host_is_400(start):
    # A backend that reads the body before it answers; one that answers early is passed on as it is.
    airline = start(Airline)
    rules = f'version: 1\ndefaults: {{legacy: b}}\nbackends: {{b: {{urls: ["http://127.0.0.1:{airline.legacy}"]}}}}\n'
    settings = "version: 1\nlimits: {body: 64KiB, headers: 20, header_bytes: 4KiB, idle: 1s}\n"
    banyan = start(Banyan, rules, settings=settings)
    big = banyan.folder / "big"
    big.write_bytes(b"x" * 100_000)
    assert curl("--data-binary", f"@{big}", banyan.url + "/upload")[0] == 413
    assert curl("--data-binary", f"@{big}", "-H", "Transfer-Encoding: chunked", banyan.url + "/upload")[0] == 413
    assert curl(*[arg for n in range(30) for arg in ("-H", f"X-{n}: 1")], banyan.url + "/")[0] == 431
    assert curl("-H", "X-Long: " + "x" * 5000, banyan.url + "/")[0] == 431
    with socket.create_connection(("127.0.0.1", banyan.port), timeout=10) as s:
        s.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert s.recv(100).startswith(b"HTTP/1.1 400")
    with socket.create_connection(("127.0.0.1", banyan.port), timeout=10) as s:
        s.sendall(b"POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc")
        answer = s.recv(1000)
        assert answer.startswith(b"HTTP/1.1 408") and b"request timeout" in answer, answer


def test_timeouts_are_504_and_only_replayable_requests_are_tried_again(start):
    airline = start(Airline)
    rules = f"""
version: 1
backends: {{l: {{urls: ["http://127.0.0.1:{airline.legacy}"]}}, s: {{urls: ["http://127.0.0.1:{airline.serverless}"], host: catalog.x}}}}
routes:
  - {{id: slow, match: {{prefix: /slow}}, legacy: l, stage: legacy, timeouts: {{first_byte: 200ms}}}}
  - {{id: total, match: {{prefix: /total}}, legacy: l, stage: legacy, timeouts: {{first_byte: 5s, total: 300ms}}}}
  - {{id: read, match: {{prefix: /api, methods: [GET]}}, legacy: l, serverless: s, stage: serverless, timeouts: {{first_byte: 1s}}, fallback: {{to: legacy, on: [timeout, 500]}}}}
  - {{id: write, match: {{prefix: /api, methods: [POST]}}, legacy: l, serverless: s, stage: serverless, timeouts: {{first_byte: 1s}}, fallback: {{to: legacy, on: [connect, timeout, 500]}}}}
  - {{id: retried, match: {{prefix: /retried}}, legacy: l, stage: legacy, retry: {{attempts: 2, on: [503]}}}}
"""
    banyan = start(Banyan, rules)
    airline.faults("legacy", {"prefix": "/slow", "delay_ms": 3000}, {"prefix": "/total", "delay_ms": 3000}, {"prefix": "/retried", "status": 503})
    assert curl(banyan.url + "/slow")[0] == 504
    assert curl(banyan.url + "/total")[0] == 504
    airline.faults("serverless", {"delay_ms": 5000})
    _, headers, body = curl(banyan.url + "/api/flights/BA010")
    assert attribution(headers)["reason"] == "fallback" and json.loads(body)["id"] == "BA010"
    before = airline.ledger()["writes"]
    status, _, _ = curl("-X", "POST", "-d", "{}", banyan.url + "/api/bookings")
    assert status == 504
    airline.faults("serverless", {"status": 500})
    assert curl("-X", "POST", "-d", "{}", banyan.url + "/api/bookings")[0] == 500
    # One write each: neither was sent to the other side as well.
    assert airline.ledger()["writes"] - before == 2
    assert curl(banyan.url + "/retried")[0] == 503
    banyan.counts(2, "banyan_retries_total", route="retried")
    assert banyan.log_lines(1, lambda line: line.get("route") == "retried")[0]["tries"] == 3


def test_signed_overrides_force_a_side_and_others_are_counted(start):
    import hashlib
    import hmac
    import time

    a, b = lease_port(), lease_port()
    start(Nginx, ECHO.format(a=a, b=b), a=a, b=b)
    rules = f'version: 1\nbackends: {{o: {{urls: ["http://127.0.0.1:{a}"]}}, n: {{urls: ["http://127.0.0.1:{b}"]}}}}\nroutes: [{{id: r, match: {{prefix: /}}, legacy: o, serverless: n, stage: canary, share: 0%}}]\n'
    banyan = start(Banyan, rules, settings="version: 1\nattribution_header: true\noverride_key: override.key\n", wait=False)
    banyan.stop()
    (banyan.folder / "override.key").write_text("0123456789abcdef0123456789abcdef\n")
    banyan = Banyan(banyan.folder, rules, settings="version: 1\nattribution_header: true\noverride_key: override.key\n")
    try:
        def ask(text, key=b"0123456789abcdef0123456789abcdef"):
            signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
            return attribution(curl("-H", f"X-Banyan-Override: {text}; sig={signature}", banyan.url + "/")[1])

        soon = int(time.time()) + 60
        assert ask(f"side=serverless; exp={soon}")["reason"] == "override"
        assert ask(f"side=serverless; exp={soon}; route=r")["side"] == "serverless"
        assert ask(f"side=serverless; exp={soon}; route=other")["reason"] == "bucket"
        assert ask(f"side=serverless; exp={soon - 3600}")["reason"] == "bucket"
        assert ask(f"side=serverless; exp={soon}", key=b"wrong")["reason"] == "bucket"
        banyan.counts(3, "banyan_overrides_refused_total")
    finally:
        banyan.stop()


def test_trusted_proxies_are_believed_and_added_to(start):
    airline = start(Airline)
    rules = f'version: 1\ndefaults: {{legacy: l}}\nbackends: {{l: {{urls: ["http://127.0.0.1:{airline.legacy}"]}}}}\n'
    banyan = start(Banyan, rules, settings="version: 1\ntrusted_proxies: [127.0.0.0/8]\n")
    given = ["-H", "X-Forwarded-For: 6.6.6.6, 203.0.113.9", "-H", "X-Forwarded-Proto: https", "-H", "X-Forwarded-Host: shop.example.com"]
    seen = dict(json.loads(curl(*given, "-H", "Cookie: a=1", "-H", "Cookie: b=2", banyan.url + "/whoami")[2])["headers"])
    assert seen["x-forwarded-for"] == "6.6.6.6, 203.0.113.9, 127.0.0.1"
    assert seen["x-forwarded-proto"] == "https" and seen["x-forwarded-host"] == "shop.example.com"
    assert seen["cookie"] == "a=1; b=2"
    line = banyan.log_lines(1)[0]
    assert line["client.address"] == "203.0.113.9" and line["url.scheme"] == "https"
