"""What a ramp obeys besides its gates: ceilings, headroom, the control cohort, its group, webhooks; and what comes before and after it:
paths that nobody claims, and the proof that legacy is silent."""

import hashlib
import hmac
import http.client
import http.server
import json
import threading
import time

import pytest
from conftest import Again, Banyan, Nginx, header, lease_port, wait_for
from emulators import send
from test_life import audit, change


def rules(port, routes, backend="", extra=""):
    return f"""
version: 1
{extra}
backends:
  old: {{urls: ["http://127.0.0.1:{port}"]{backend}}}
  new: {{urls: ["http://127.0.0.1:{port}"]}}
  broken: {{urls: ["http://127.0.0.1:{port}"], host: broken.example}}
cohorts: {{user: {{key: [header.X-User], allow: [header.X-Staff=true]}}}}
routes:
""" + "".join(f"  - {{{route}, legacy: old, cohort: user, effects: safe}}\n" for route in routes)


@pytest.fixture
def origin(start):
    port = lease_port()
    servers = f"server {{ listen 127.0.0.1:{port}; location / {{ return 200 ok; }} }} server {{ listen 127.0.0.1:{port}; server_name broken.example; location / {{ return 500 no; }} }}"
    start(Nginx, servers, port=port)
    return port


def side(banyan, path="/r", user="1", **headers):
    return header(send(banyan.port, "GET", path, [("X-User", user), *headers.items()]).headers, "x-banyan")


def on_serverless(banyan, users, path="/r"):
    return {user for user in range(users) if "side=serverless" in side(banyan, path, str(user))}


class Hook:
    """A webhook's receiver. It refuses what `answer` says, and keeps what it was sent."""

    def __init__(self, secret):
        self.got, self.answer, self.secret = [], lambda event: 200, secret
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                signed = hmac.new(hook.secret, self.headers["X-Banyan-Timestamp"].encode() + b"." + body, hashlib.sha256).hexdigest()
                event = json.loads(body)
                hook.got.append((event, self.headers["X-Banyan-Signature"] == f"sha256={signed}"))
                self.send_response(hook.answer(event))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def events(self, name):
        return [event for event, _ in self.got if event["event"] == name]


@pytest.fixture
def hook():
    made = Hook(b"a secret of some length")
    yield made
    made.server.shutdown()


def test_a_ceiling_sends_the_surplus_to_legacy(start, origin):
    ramp = "stage: ramp, ramp: {steps: [100%], ceiling: {rps: 20}}"
    banyan = start(Banyan, rules(origin, [f"id: r, match: {{prefix: /r}}, serverless: new, {ramp}", "id: f, match: {prefix: /f}, serverless: broken, stage: ramp, ramp: {steps: [100%], ceiling: {failures_per_day: 5}}"]))
    change(banyan, "promote")
    begun = time.monotonic()
    sides = [side(banyan, user=str(user)) for user in range(300)]
    took = time.monotonic() - begun
    admitted = sum("side=serverless" in it for it in sides)
    assert 20 <= admitted <= 20 + 20 * took + 1, (admitted, took)
    assert all("side=legacy, reason=ceiling" in it for it in sides if "side=serverless" not in it)
    banyan.counts(300 - admitted, "banyan_requests_total", route="r", reason="ceiling")
    # A reload with the same ceiling does not give a new second's worth.
    change(banyan, "promote", "f")
    failed = wait_for("the day's failures to be spent", lambda: [it for it in range(200) if "reason=ceiling" in side(banyan, "/f", str(it))])
    assert failed and banyan.metric("banyan_requests_total", route="f", side="serverless", code="500") >= 5


def test_a_raise_that_legacy_could_not_take_back_is_refused(start, origin):
    text = rules(origin, ["id: r, match: {prefix: /r}, serverless: new, stage: ramp, ramp: {steps: [1%, 100%]}"], backend=", capacity_rps: 3")
    banyan = start(Banyan, text)
    change(banyan, "promote")
    stop = threading.Event()

    def client():
        connection = http.client.HTTPConnection("127.0.0.1", banyan.port, timeout=10)
        while not stop.is_set():
            connection.request("GET", "/r", headers={"X-User": "x"})
            connection.getresponse().read()
            time.sleep(0.01)

    thread = threading.Thread(target=client)
    thread.start()
    try:
        refused = wait_for("the load to be seen", lambda: [value for status, value in [banyan.api("/api/v1/routes/r/promote", "POST", {"dry_run": True}, check=False)] if status == 409])[0]
        assert refused["code"] == "headroom" and "`capacity_rps` is 3" in refused["detail"]
        assert change(banyan, "share", share="0.5%")["after"]["share_ppm"] == 5_000, "a way down needs no room"
    finally:
        stop.set()
        thread.join()


def test_a_ramp_that_moves_by_itself_leaves_a_control_cohort_on_legacy(start, origin):
    banyan = start(Banyan, rules(origin, [
        "id: r, match: {prefix: /r}, serverless: new, stage: ramp, ramp: {steps: [100%], hold_each: 1h, control: 10%}",
        "id: s, match: {prefix: /s}, serverless: new, stage: ramp, ramp: {steps: [100%]}",
    ]))
    # The first step is not held: nobody stands on a step before it.
    wait_for("the first step", lambda: banyan.api("/api/v1/routes/r")[1]["share_ppm"] == 900_000)
    change(banyan, "promote", "s")
    left = set(range(400)) - on_serverless(banyan, 400)
    assert 20 < len(left) < 65 and len(on_serverless(banyan, 400, "/s")) == 400
    assert banyan.metric("banyan_route_share_ratio", route="r", kind="actual") == 0.9 and banyan.metric("banyan_route_share_ratio", route="s", kind="actual") == 1
    assert banyan.api("/api/v1/routes/r")[1]["share_ppm"] == 900_000
    assert "side=serverless" in side(banyan, user=str(min(left)), **{"X-Staff": "true"}), "who is allowed by name is not of it"


def test_routes_of_a_group_go_together_and_back_together(start, origin):
    ramp = "stage: ramp, ramp: {steps: [20%, 60%, 100%], hold_each: 1s, control: 0%, advance_when: {error_rate: \"<= legacy + 1pp\"}, roll_back_when: {error_rate: \"> legacy + 5pp\", for: 3s, min_requests: 20}}"
    routes = lambda second: [f"id: a, group: g, match: {{prefix: /a}}, serverless: new, {ramp}", f"id: b, group: g, match: {{prefix: /b}}, serverless: {second}, {ramp}"]  # noqa: E731
    banyan = start(Banyan, rules(origin, routes("new")))
    stop = threading.Event()

    def client(path):
        connection = http.client.HTTPConnection("127.0.0.1", banyan.port, timeout=10)
        user = 0
        while not stop.is_set():
            user += 1
            connection.request("GET", path, headers={"X-User": str(user % 500)})
            connection.getresponse().read()
            time.sleep(0.004)

    threads = [threading.Thread(target=client, args=(path,)) for path in ("/a", "/b")]
    shares = lambda: [banyan.api(f"/api/v1/routes/{id}")[1]["share_ppm"] for id in "ab"]  # noqa: E731
    try:
        # Only one of the two is asked for: it waits.
        threads[0].start()
        wait_for("the first step", lambda: shares() == [200_000, 200_000])
        gate = wait_for("the group to be waited for", lambda: [it for it in banyan.api("/api/v1/routes/a")[1]["gate"]["reasons"] if it["gate"] == "group"], seconds=20)
        assert "`b`" in gate[0]["text"] and shares() == [200_000, 200_000]
        threads[1].start()
        wait_for("both further on", lambda: shares() == [600_000, 600_000], seconds=30)
        change(banyan, "hold", "a", actor="kim")
        banyan.write_rules(rules(origin, routes("broken")))
        wait_for("both to be back", lambda: shares() == [0, 0], seconds=30)
    finally:
        stop.set()
        [it.join() for it in threads if it.ident]
    back = {it["scope"]: it for it in audit(banyan) if it["action"] == "rollback"}
    assert back["b"]["reason"].startswith("error_rate") and back["a"]["reason"].startswith("group: `b`"), back


def test_webhooks_are_asked_told_and_never_waited_for_on_the_way_back(start, origin, hook, tmp_path):
    (tmp_path / "hook.key").write_bytes(hook.secret + b"\n")
    settings = f"""version: 1
attribution_header: true
webhooks:
  - {{name: chat, url: "http://127.0.0.1:{hook.port}/banyan?team=a", secret: {tmp_path / 'hook.key'}, on: [before_raise, after_raise, rolled_back, held]}}
"""
    refusing = [True]
    hook.answer = lambda event: 403 if event["event"] == "before_raise" and refusing[0] else 200
    ramp = "stage: ramp, ramp: {steps: [1%, {at: 50%, approve: 1}], hold_each: 1s}"
    banyan = start(Banyan, rules(origin, [f"id: r, match: {{prefix: /r}}, serverless: new, {ramp}"]), settings)
    gate = wait_for("the refusal", lambda: [it for it in (banyan.api("/api/v1/routes/r")[1]["gate"] or {"reasons": []})["reasons"] if it["gate"] == "webhook" and "403" in it["text"]])
    assert "chat: answered 403" in gate[0]["text"] and banyan.api("/api/v1/routes/r")[1]["share_ppm"] == 0
    assert banyan.metric("banyan_webhooks_total", webhook="chat", result="refused") == 1 and len(hook.events("before_raise")) == 1
    # A person is not held up by it; what she does is told.
    change(banyan, "promote", actor="kim")
    told = wait_for("the raise to be told", lambda: hook.events("after_raise"))[0]
    assert told.items() >= {"version": 1, "route": "r", "actor": "kim", "reason": "a test", "share_ppm": 0, "to_share_ppm": 10_000}.items()
    refusing[0] = False
    # That something else than time or traffic keeps it was told, once.
    assert [[it["gate"] for it in event["reasons"]] for event in hook.events("held")] == [["webhook"]]
    # A receiver that is gone delays nothing, and is told later.
    hook.answer = lambda event: 500 if len(hook.events("rolled_back")) == 1 else 200
    begun = time.monotonic()
    change(banyan, "rollback")
    assert time.monotonic() - begun < 2 and banyan.api("/api/v1/routes/r")[1]["share_ppm"] == 0
    wait_for("the second try", lambda: len(hook.events("rolled_back")) == 2, seconds=10)
    assert len({it["delivery"] for it in hook.events("rolled_back")}) == 1, "a repetition can be told"
    assert all(signed for _, signed in hook.got)
    bad = start(Banyan, rules(origin, []), settings.replace("hook.key", "none.key"), wait=False)
    assert bad.popen.wait(20) == 64 and "none.key" in bad.text()


def test_what_a_change_would_move_is_told_from_the_traffic_there_was(start, origin):
    banyan = start(Banyan, rules(origin, ["id: r, match: {prefix: /r}, serverless: new, stage: ramp, ramp: {steps: [25%, 100%]}"]))
    for user in range(200):
        side(banyan, user=str(user))
    banyan.counts(200, "banyan_requests_total", route="r")
    would = change(banyan, "promote", dry_run=True)
    assert would["traffic"] == {"requests_last_hour": 200, "would_move": 50, "to": "serverless"}
    out = banyan.cli("promote", "r", "--dry-run").stdout
    assert "of 200 requests in the last hour, about 50 would go to serverless" in out
    change(banyan, "promote")
    assert change(banyan, "rollback", dry_run=True)["traffic"] == {"requests_last_hour": 200, "would_move": 50, "to": "legacy"}
    killed = banyan.api("/api/v1/kill", "POST", {"scope": "all", "dry_run": True})[1]
    assert killed["traffic"]["would_move"] == 50 and killed["dry_run"] and not (banyan.state / "KILL").exists()


def test_a_route_is_retired_on_proof_of_silence_only(start, origin):
    route = lambda stage, quiet="3s": [f"id: r, match: {{prefix: /r}}, serverless: new, stage: {stage}, retire: {{quiet_for: {quiet}}}"]  # noqa: E731
    banyan = start(Banyan, rules(origin, route("serverless")))
    side(banyan)
    banyan.api("/api/v1/routes/r/kill", "POST", {"reason": "drill"})
    assert "reason=kill" in header(send(banyan.port, "GET", "/r", [("User-Agent", "batch/7")]).headers, "x-banyan")
    banyan.api("/api/v1/routes/r/unkill", "POST", {"reason": "over"})
    seen = wait_for("the request on legacy to be seen", lambda: [it for it in [banyan.api("/api/v1/routes/r")[1]["silence"]] if it and it["legacy_requests"] == 1])[0]
    assert seen["proved"] is False and seen["callers"][0].items() >= {"address": "127.0.0.1", "user_agent": "batch/7", "reason": "kill", "requests": 1}.items()
    out = banyan.cli("show", "r").stdout
    assert "not proved; 1 requests" in out and "batch/7" in out
    before = banyan.revision()
    banyan.write_rules(rules(origin, route("retired", "1h")))
    out = banyan.cli("reload")
    assert out.returncode == 1 and "not_silent" in out.stdout and banyan.revision() == before
    banyan.write_rules(rules(origin, route("serverless")))
    banyan.cli("reload")
    wait_for("silence", lambda: banyan.api("/api/v1/routes/r")[1]["silence"]["proved"], seconds=20)
    banyan.write_rules(rules(origin, route("retired")))
    assert banyan.cli("reload").returncode == 0 and banyan.api("/api/v1/routes/r")[1]["stage"] == "retired"
    # Back on serverless, it has everything to prove anew.
    banyan.write_rules(rules(origin, route("serverless", "1h")))
    assert banyan.cli("reload").returncode == 0
    wait_for("a new watch", lambda: (banyan.api("/api/v1/routes/r")[1]["silence"] or {}).get("proved") is False)
    banyan.write_rules(rules(origin, route("retired", "1h")))
    assert banyan.cli("reload").returncode == 1
    banyan.write_rules(rules(origin, route("retired", "1s")))
    wait_for("silence again", lambda: banyan.cli("reload").returncode == 0)
    # Once retired it stays so over a restart.
    banyan.stop()
    again = start(Again, banyan)
    assert again.api("/api/v1/routes/r")[1]["stage"] == "retired"


def test_paths_that_nobody_claims_become_templates_and_rules(start, origin):
    text = rules(origin, ["id: r, match: {prefix: /r}, serverless: new, stage: legacy"], extra="defaults: {legacy: old}")
    banyan = start(Banyan, text)
    for number in range(60):
        send(banyan.port, "GET", f"/orders/{number}/lines", [("Host", "shop.example")])
        send(banyan.port, "POST" if number % 2 else "GET", f"/people/{'abcdefghijklmnopqrstuvwxyz'[number % 26]}x", [("Host", "shop.example")])
    send(banyan.port, "GET", "/r/claimed", [("Host", "shop.example")])
    # Scanners: many words, each once, do not hide those that are used.
    for number in range(40):
        send(banyan.port, "GET", f"/wp-{'abcdefghijklmnopqrstuvwxyz'[number % 26]}{'xyz'[number % 3]}.php", [("Host", "shop.example")])
    found = wait_for("all to be looked at", lambda: [it for it in [banyan.api("/api/v1/unclaimed")[1]] if it["seen"] == 160])[0]
    shown = {(it["path"], tuple(it["methods"])): it["requests"] for it in found["templates"] if it["requests"] >= 60}
    assert shown == {("/orders/{order_id}/lines", ("GET",)): 60, ("/people/{people_id}", ("GET", "POST")): 60}, shown
    assert "/orders/{order_id}/lines" in banyan.cli("unclaimed").stdout
    # The proposed rules are rules.
    proposed = banyan.cli("unclaimed", "--rules").stdout
    banyan.write_rules("version: 1\n" + proposed.replace("stage: legacy", "stage: legacy\n  legacy: old"), "found.yaml")
    assert banyan.cli("reload").returncode == 0
    assert {it["id"] for it in banyan.api("/api/v1/routes")[1]["routes"]} >= {"orders-lines", "people-one"}
