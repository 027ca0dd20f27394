"""The life of a route beside its rules: shares by steps, holds, approvals, rollbacks, kill switches by API, and the log of it all."""

import http.client
import json
import signal
import subprocess
import threading
import time

import pytest
from conftest import BANYAN, Again, Airline, Banyan, Nginx, header, lease_port, wait_for
from emulators import send

RAMP = "stage: ramp, ramp: {steps: [1%, 25%, {at: 50%, approve: 2}, 100%]}"


def rules(port, stage=RAMP, extra=""):
    return f"""
version: 1
backends: {{old: {{urls: ["http://127.0.0.1:{port}"]}}, new: {{urls: ["http://127.0.0.1:{port}"]}}}}
cohorts: {{user: {{key: [header.X-User], allow: [header.X-Staff=true]}}}}
{extra}
routes:
  - {{id: r, group: g, match: {{prefix: /r}}, legacy: old, serverless: new, cohort: user, {stage}}}
  - {{id: other, match: {{prefix: /other}}, legacy: old, serverless: new, stage: serverless}}
"""


@pytest.fixture
def origin(start):
    port = lease_port()
    start(Nginx, f"server {{ listen 127.0.0.1:{port}; location / {{ return 200 ok; }} }}", port=port)
    return port


def change(banyan, action, route="r", expect=200, **body):
    status, value = banyan.api(f"/api/v1/routes/{route}/{action}", "POST", {"reason": "a test", **body}, check=False)
    assert status == expect, (action, status, value)
    return value


def on_serverless(banyan, users=400):
    return {user for user in range(users) if "side=serverless" in header(send(banyan.port, "GET", "/r", [("X-User", str(user))]).headers, "x-banyan")}


def audit(banyan):
    value = banyan.api("/api/v1/audit")[1]
    assert value["verified"] and value["broken_at"] is None, value
    return value["entries"]


def test_a_share_rises_by_steps_and_falls_at_once(start, origin):
    banyan = start(Banyan, rules(origin))
    assert on_serverless(banyan) == set(), "a ramp begins with nobody"
    shares = []
    for wanted in (1, 25):
        done = change(banyan, "promote")
        shares.append(on_serverless(banyan))
        assert done["after"]["share_ppm"] == wanted * 10_000 and done["state_revision"] == len(shares)
    assert shares[0] <= shares[1] and 60 < len(shares[1]) < 140, "a raise takes nobody back"
    refused = change(banyan, "promote", expect=409)
    assert refused["code"] == "approvals" and "0 of 2" in refused["detail"]
    for actor in ("ann", "ann", "ben"):
        change(banyan, "approve", actor=actor, expect=200 if actor == "ben" or len(audit(banyan)) == 2 else 409)
    change(banyan, "promote")
    assert banyan.metric("banyan_route_share_ratio", route="r", kind="actual") == 0.5 and banyan.metric("banyan_route_share_ratio", route="r", kind="approved") == 1
    half = on_serverless(banyan)
    assert shares[1] <= half
    change(banyan, "hold", actor="kim")
    assert change(banyan, "promote", expect=409)["code"] == "held"
    assert change(banyan, "share", share="10%")["after"]["share_ppm"] == 100_000, "a hold never stops a way down"
    assert on_serverless(banyan) <= half
    change(banyan, "resume")
    assert change(banyan, "share", share="75%")["after"]["share_ppm"] == 750_000
    assert change(banyan, "share", share="1000%", expect=400)["status"] == 400 and change(banyan, "share", expect=400)["status"] == 400
    change(banyan, "promote")
    assert change(banyan, "promote", expect=409)["code"] == "last_step" and len(on_serverless(banyan)) == 400
    back = change(banyan, "rollback")
    assert back["after"].items() >= {"share_ppm": 0, "rolled_back": True}.items() and back["after"]["hold"]["actor"] == "api" and on_serverless(banyan) == set()
    assert "side=serverless" in header(send(banyan.port, "GET", "/r", [("X-User", "1"), ("X-Staff", "true")]).headers, "x-banyan"), "who is allowed by name may still look"
    assert change(banyan, "promote", expect=409)["code"] == "rolled_back" and change(banyan, "rollback", expect=409)["code"] == "already"
    change(banyan, "resume")
    change(banyan, "promote")
    assert on_serverless(banyan) == shares[0], "the same users come first again"
    entries = audit(banyan)
    assert [it["action"] for it in entries][:4] == ["promote", "promote", "approve", "approve"] and all(it["reason"] == "a test" for it in entries)
    assert [it["revision_after"] for it in entries] == list(range(1, len(entries) + 1))
    shown = banyan.api("/api/v1/routes/r")[1]
    assert shown["state"]["share_ppm"] == 10_000 and shown["share_ppm"] == 10_000


def test_what_forbids_a_raise_is_named_and_nothing_is_half_done(start, origin):
    frozen = 'freezes: [{name: year-end, from: "2020-01-01T00:00", to: "2099-01-01T00:00", zone: Europe/Berlin}]'
    banyan = start(Banyan, rules(origin, extra=frozen))
    refused = change(banyan, "promote", expect=409)
    assert refused["code"] == "frozen" and "year-end" in refused["detail"]
    banyan.write_rules(rules(origin, stage=f"{RAMP}, after: [last]") + "  - {id: last, match: {prefix: /last}, legacy: old, serverless: new, stage: shadow}\n")
    wait_for("the new rules", lambda: any(it["id"] == "last" for it in banyan.api("/api/v1/routes")[1]["routes"]))
    assert change(banyan, "promote", expect=409)["code"] == "after"
    assert change(banyan, "promote", "other", expect=409)["code"] == "stage" and change(banyan, "promote", "nobody", expect=404)["status"] == 404
    assert change(banyan, "hold", "last", expect=409)["code"] == "stage"
    assert change(banyan, "promote", expect=409, if_revision=7)["state_revision"] == 0
    assert change(banyan, "promote", expect=400, colour="red")["status"] == 400 and change(banyan, "jump", expect=404)["status"] == 404
    banyan.write_rules(rules(origin, stage=f"{RAMP}, point_of_no_return: true"))
    wait_for("the rules", lambda: len(banyan.api("/api/v1/routes")[1]["routes"]) == 2)
    assert change(banyan, "rollback", expect=409)["code"] == "point_of_no_return"
    done = change(banyan, "promote", dry_run=True)
    assert done["dry_run"] and done["after"]["share_ppm"] == 10_000 and done["state_revision"] == 0
    assert audit(banyan) == [] and on_serverless(banyan, 50) == set()
    # A whole route that serves from serverless goes back as well.
    change(banyan, "rollback", "other", if_revision=0)
    assert "side=legacy" in header(send(banyan.port, "GET", "/other").headers, "x-banyan")
    change(banyan, "resume", "other")
    assert "side=serverless" in header(send(banyan.port, "GET", "/other").headers, "x-banyan")


def test_what_is_written_into_the_log_is_one_line_and_a_share_is_one_the_rules_approve(start, origin):
    banyan = start(Banyan, rules(origin, stage="stage: ramp, ramp: {steps: [1%, 5%]}"))
    assert change(banyan, "share", expect=409, share="100%")["code"] == "over_steps"
    for body in ({"reason": "fine\nthe chain is whole"}, {"reason": "\u001b[2J"}, {"actor": "kim\t"}, {"actor": "controller"}):
        assert change(banyan, "promote", expect=400, **body)["title"] == "not a change", body
    assert audit(banyan) == []
    change(banyan, "share", share="5%")
    banyan.write_rules(rules(origin, stage="stage: ramp, ramp: {steps: [1%, 2%]}"))
    wait_for("the share to be what is approved", lambda: banyan.api("/api/v1/routes/r")[1]["share_ppm"] == 20_000)
    banyan.write_rules(rules(origin, stage="stage: canary, share: 50%"))
    wait_for("the canary", lambda: banyan.api("/api/v1/routes/r")[1]["share_ppm"] == 500_000)
    assert "50% -> 0%, rolled back" in banyan.cli("rollback", "r", "--yes", "--reason", "drill").stdout


def test_kill_switches_by_api_are_files_and_are_written_down(start, origin):
    banyan = start(Banyan, rules(origin, stage="stage: serverless"))
    side = lambda path: header(send(banyan.port, "GET", path).headers, "x-banyan")  # noqa: E731
    for scope, file, killed, spared in (("r", "KILL.r", "/r", "/other"), ("group:g", "KILL.g", "/r", "/other"), ("all", "KILL", "/other", None)):
        status, done = banyan.api("/api/v1/kill", "POST", {"scope": scope, "reason": "drill"}, check=False)
        assert status == 200 and (banyan.state / file).exists(), done
        assert "reason=kill" in side(killed) and (spared is None or "reason=kill" not in side(spared))
        assert banyan.cli("unkill", scope, "--reason", "over").returncode == 0 and not (banyan.state / file).exists()
        assert "reason=kill" not in side(killed)
    assert banyan.api("/api/v1/kill", "POST", {"scope": "nobody"}, check=False)[0] == 404
    assert banyan.api("/api/v1/kill", "POST", {"scope": "../x"}, check=False)[0] == 404
    change(banyan, "kill")
    assert "reason=kill" in side("/r")
    assert [(it["action"], it["scope"]) for it in audit(banyan)][:2] == [("kill", "route:r"), ("unkill", "route:r")]


def test_a_kill_needs_nothing_but_the_process(start, origin):
    """By signal; and by API where the file that is the switch cannot be made."""
    banyan = start(Banyan, rules(origin, stage="stage: serverless"))
    side = lambda: header(send(banyan.port, "GET", "/other").headers, "x-banyan")  # noqa: E731
    banyan.popen.send_signal(signal.SIGUSR1)
    wait_for("the kill", lambda: "reason=kill" in side())
    assert (banyan.state / "KILL").exists()
    banyan.popen.send_signal(signal.SIGUSR2)
    wait_for("the end of it", lambda: "reason=kill" not in side())
    assert not (banyan.state / "KILL").exists() and [(it["actor"], it["action"]) for it in audit(banyan)] == [("signal", "kill"), ("signal", "unkill")]
    # The rules and the state directory are gone.
    banyan.rules.rename(banyan.folder / "rules-away")
    banyan.state.rename(banyan.folder / "state-away")
    done = banyan.api("/api/v1/kill", "POST", {"scope": "all", "reason": "everything is gone"})[1]
    assert done["kept"] is False and "reason=kill" in side()
    assert banyan.metric("banyan_kill_switch", scope="all") == 1
    (banyan.folder / "state-away").rename(banyan.state)
    wait_for("its file", lambda: (banyan.state / "KILL").exists())
    assert "reason=kill" in side() and banyan.cli("unkill", "all", "--yes", "--reason", "over").returncode == 0
    assert "reason=kill" not in side() and not (banyan.state / "KILL").exists()


def test_the_commands_say_what_they_do(start, origin):
    banyan = start(Banyan, rules(origin))
    out = banyan.cli("promote", "r", "--reason", "first users", "--dry-run")
    assert out.returncode == 0 and out.stdout.startswith("would be done: promote r") and "0% -> 1%" in out.stdout
    assert banyan.cli("promote", "r", "--reason", "first users").stdout.startswith("done: promote r, state revision 1")
    out = banyan.cli("set-share", "r", "20%", "--output", "json", "--yes")
    assert json.loads(out.stdout)["after"]["share_ppm"] == 200_000
    assert banyan.cli("hold", "r", "--reason", "lunch").returncode == 0
    out = banyan.cli("promote", "r")
    assert out.returncode == 1 and "409 refused: held by" in out.stderr and "lunch" in out.stderr
    assert banyan.cli("promote", "r", "--if-revision", "1").returncode == 1
    assert banyan.cli("resume", "r").returncode == banyan.cli("approve", "r").returncode == banyan.cli("rollback", "r").returncode == 0
    out = banyan.cli("audit")
    assert out.returncode == 0 and out.stdout.rstrip().endswith("the chain is whole") and "first users" in out.stdout and len(out.stdout.splitlines()) == 7
    # Who changes an entry on the disk is found out.
    assert banyan.cli("status").returncode == 0
    watched = subprocess.Popen([BANYAN, "status", "--watch", "--admin", f"http://127.0.0.1:{banyan.admin}"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    lines = [watched.stdout.readline() for _ in range(12)]
    assert sum(line.startswith("revision") for line in lines) >= 1 and any(line.startswith("r  ") for line in lines), lines
    banyan.stop()
    assert watched.wait(20) == 3, "the proxy is gone"
    watched.stdout.close()
    assert banyan.cli("audit").returncode == 3


def test_a_kill_minus_nine_takes_back_nothing_that_was_acknowledged(start, origin):
    first = running = start(Banyan, rules(origin, stage="stage: ramp, ramp: {steps: [1%, 100%]}"))
    acknowledged = [0]
    for turn in range(100):
        stopped = threading.Event()

        def changes(banyan=running, stopped=stopped):
            number = acknowledged[0]
            while not stopped.is_set():
                try:
                    share = f"{(number * 7) % 99 + 1}.{number % 10}%"
                    status, value = banyan.api("/api/v1/routes/r/share", "POST", {"share": share, "reason": f"change {number}"}, check=False)
                except OSError:
                    return
                if status == 200:
                    acknowledged[0] = value["state_revision"]
                    last.update({"revision": value["state_revision"], "share": value["after"]["share_ppm"]})
                number += 1

        last = {}
        thread = threading.Thread(target=changes)
        thread.start()
        wait_for("changes", lambda: last)
        # Each kill falls into another moment of a change.
        time.sleep(0.001 * (turn % 50))
        running.stop(signal.SIGKILL)
        stopped.set()
        thread.join(10)
        running = start(Again, first, turn)
        told = running.api("/api/v1/revision")[1]["state_revision"]
        # One more may have been kept whose answer did not arrive.
        assert last["revision"] <= told <= last["revision"] + 1, (turn, last, told)
        entries = audit(running)
        assert len(entries) == told and entries[-1]["after"]["share_ppm"] == running.api("/api/v1/routes/r")[1]["state"]["share_ppm"]
        if told == last["revision"]:
            assert entries[-1]["after"]["share_ppm"] == last["share"]
        acknowledged[0] = told
    assert acknowledged[0] > 100


def test_a_ramp_moves_by_itself_on_proof_and_goes_back_when_serverless_fails(start):
    """The airline, with a fault switched on in a function at 25 %: nobody's hand is needed."""
    airline = start(Airline)
    banyan = start(Banyan, f"""
version: 1
backends:
  monolith: {{urls: ["http://127.0.0.1:{airline.legacy}"]}}
  loyalty-fn: {{urls: ["http://127.0.0.1:{airline.serverless}"], host: loyalty.lambda-url.example}}
cohorts: {{passenger: {{key: [header.X-User]}}}}
routes:
  - id: r
    match: {{path: "/api/loyalty/{{member}}", methods: [GET]}}
    legacy: monolith
    serverless: loyalty-fn
    cohort: passenger
    effects: safe
    stage: ramp
    shadow: {{sample: 100%}}
    ramp:
      steps: [5%, 25%, {{at: 100%, approve: 1}}]
      hold_each: 1s
      advance_when: {{parity: "99% at 95%", coverage: 50%, error_rate: "<= legacy + 1pp"}}
      roll_back_when: {{error_rate: "> legacy + 5pp", for: 3s, min_requests: 20}}
""")
    answers, running = [], [True]

    def client(number):
        connection = http.client.HTTPConnection("127.0.0.1", banyan.port, timeout=10)
        turn = 0
        while running[0]:
            user = f"{number}-{turn % 250}"
            connection.request("GET", f"/api/loyalty/m{turn % 97}", headers={"X-User": user})
            answer = connection.getresponse()
            answer.read()
            answers.append((time.monotonic(), user, "side=serverless" in answer.headers["x-banyan"], answer.status))
            turn += 1
            time.sleep(0.004)

    def sides_of_ten_thousand():
        """Which of so many keys are on serverless now."""
        found = [set() for _ in range(4)]

        def ask(part):
            connection = http.client.HTTPConnection("127.0.0.1", banyan.port, timeout=10)
            for key in range(part, 10_000, 4):
                connection.request("GET", f"/api/loyalty/m{key % 97}", headers={"X-User": f"key-{key}"})
                answer = connection.getresponse()
                answer.read()
                if "side=serverless" in answer.headers["x-banyan"]:
                    found[part].add(key)

        threads = [threading.Thread(target=ask, args=(part,)) for part in range(4)]
        [it.start() for it in threads]
        [it.join() for it in threads]
        return set().union(*found)

    clients = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    [it.start() for it in clients]
    try:
        state = lambda: banyan.api("/api/v1/routes/r")[1]["state"] or {}  # noqa: E731
        assert {it["gate"] for it in wait_for("a verdict", lambda: banyan.api("/api/v1/routes/r")[1]["gate"])["reasons"]} >= {"parity"}, "no data: it holds"
        wait_for("the ramp to reach 25 %", lambda: state().get("share_ppm") == 250_000, seconds=60)
        gate = wait_for("the approval to be missed", lambda: [it for it in banyan.api("/api/v1/routes/r")[1]["gate"]["reasons"] if it["gate"] == "approvals"], seconds=20)
        assert "0 of 1" in gate[0]["text"] and banyan.metric("banyan_gate", route="r", gate="approvals", verdict="hold") == 1
        before = sides_of_ten_thousand()
        airline.faults("serverless", {"prefix": "/api/loyalty", "status": 500})
        broke = time.monotonic()
        wait_for("the rollback", lambda: state().get("rolled_back"), seconds=15)
        took = time.monotonic() - broke
        back = time.monotonic() + 0.1
        time.sleep(1)
        assert not [1 for at, _, on, _ in answers if at > back and on] and not sides_of_ten_thousand(), "nobody is sent there any more"
        entries = audit(banyan)
        assert [(it["actor"], it["action"]) for it in entries] == [("controller", "promote"), ("controller", "promote"), ("controller", "rollback")]
        assert "error_rate" in entries[-1]["reason"] and took < 15
        assert banyan.metric("banyan_gate", route="r", gate="rolled_back", verdict="hold") == 1
        # A person lifts it; the same users come first.
        airline.faults("serverless")
        change(banyan, "resume")
        wait_for("25 % again", lambda: state().get("share_ppm") == 250_000, seconds=60)
        again = sides_of_ten_thousand()
        assert 2_200 < len(before) < 2_800 and again == before
    finally:
        running[0] = False
        [it.join(20) for it in clients]
