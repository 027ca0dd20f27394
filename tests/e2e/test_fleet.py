"""Several replicas with one state, on a real Redis: pushes, the lease, the store away and back."""

import json
import signal
import subprocess
import threading
import time

import pytest
from conftest import Again, Banyan, Nginx, Process, header, is_open, lease_port, wait_for
from emulators import send

RAMP = "stage: ramp, ramp: {steps: [1%, 25%, 100%]}"


def rules(port, stage=RAMP):
    return f"""
version: 1
backends: {{old: {{urls: ["http://127.0.0.1:{port}"]}}, new: {{urls: ["http://127.0.0.1:{port}"]}}}}
cohorts: {{user: {{key: [header.X-User]}}}}
routes:
  - {{id: r, group: g, match: {{prefix: /r}}, legacy: old, serverless: new, cohort: user, effects: safe, {stage}}}
  - {{id: other, match: {{prefix: /other}}, legacy: old, serverless: new, stage: serverless}}
"""


class Redis(Process):
    """With its log on the disk before it answers, so that a restart forgets nothing."""

    def __init__(self, folder, port=None, keep=True):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port = folder, port or lease_port()
        durable = ["--appendonly", "yes", "--appendfsync", "always"] if keep else ["--save", "", "--appendonly", "no"]
        super().__init__(["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", folder, *durable], folder, folder / "log")
        wait_for("redis", lambda: is_open(self.port))


def settings(redis, prefix="banyan"):
    return f'version: 1\nattribution_header: true\nstate: {{store: redis, url: "redis://127.0.0.1:{redis.port}", prefix: {prefix}}}\n'


@pytest.fixture
def origin(start):
    port = lease_port()
    start(Nginx, f"server {{ listen 127.0.0.1:{port}; location / {{ return 200 ok; }} }}", port=port)
    return port


@pytest.fixture
def fleet(start, origin):
    def begin(redis, stage=RAMP, count=3):
        return [start(Banyan, rules(origin, stage), settings(redis)) for _ in range(count)]

    return begin


def change(banyan, action, route="r", expect=200, **body):
    status, value = banyan.api(f"/api/v1/routes/{route}/{action}", "POST", {"reason": "a test", **body}, check=False)
    assert status == expect, (action, status, value)
    return value


def told(banyan):
    return banyan.api("/api/v1/revision")[1]


def side(banyan, path="/r", user="1"):
    return header(send(banyan.port, "GET", path, [("X-User", user)]).headers, "x-banyan")


def controller(replicas):
    return wait_for("one controller", lambda: [it for it in replicas if told(it)["store"]["controller"]], seconds=10)


def audit(banyan):
    value = banyan.api("/api/v1/audit")[1]
    assert value["verified"], value
    return value["entries"]


def test_what_one_replica_is_told_all_of_them_do(start, fleet):
    replicas = fleet(start(Redis))
    wait_for("all to know each other", lambda: all(len(told(it)["fleet"]["replicas"]) == 3 for it in replicas))
    assert len(controller(replicas)) == 1
    change(replicas[0], "promote")
    change(replicas[1], "promote")
    wait_for("all at 25 %", lambda: all(it.api("/api/v1/routes/r")[1]["share_ppm"] == 250_000 for it in replicas))
    sides = [{user for user in range(300) if "side=serverless" in side(it, user=str(user))} for it in replicas]
    assert sides[0] == sides[1] == sides[2] and 40 < len(sides[0]) < 110, "a user is on the same side wherever she comes in"
    # A kill at one of them, and how long it takes at the others.
    slowest = 0.0
    for turn in range(10):
        at, others = replicas[turn % 3], [it for it in replicas if it is not replicas[turn % 3]]
        begun = time.monotonic()
        assert at.api("/api/v1/kill", "POST", {"scope": "all", "reason": "drill"})[1]["kept"] is True
        assert "reason=kill" in side(at, "/other")
        wait_for("the kill everywhere", lambda: all("reason=kill" in side(it, "/other") for it in others), seconds=5)
        slowest = max(slowest, time.monotonic() - begun)
        # Any of them lifts it.
        assert others[0].cli("unkill", "all", "--reason", "over").returncode == 0
        wait_for("the end of it", lambda: not any("reason=kill" in side(it, "/other") for it in replicas), seconds=5)
    print(f"a kill reached three replicas in {slowest * 1000:.0f} ms at most")
    assert slowest < 1
    logs = [audit(it) for it in replicas]
    assert logs[0] == logs[1] == logs[2] and len(logs[0]) == 22 and [it["sequence"] for it in logs[0]] == list(range(1, 23))
    # Who serves what is told once a second.
    out = wait_for("all to say the same", lambda: [text for text in [replicas[0].cli("status").stdout] if "NOT AS HERE" not in text])[0]
    assert "store      redis, ok" in out and out.count("replica    ") == 3 and out.count(", controller") == 1


def test_changes_at_the_same_time_are_all_kept_or_refused(start, fleet):
    replicas = fleet(start(Redis), stage="stage: ramp, ramp: {steps: [1%, 100%]}")
    kept, lock = [], threading.Lock()

    def changes(number):
        for turn in range(15):
            share = f"{number * 20 + turn + 1}%"
            status, value = replicas[number].api("/api/v1/routes/r/share", "POST", {"share": share}, check=False)
            if status == 200:
                with lock:
                    kept.append((value["state_revision"], value["after"]["share_ppm"]))
            else:
                assert status == 503 and "first" in value["detail"], (status, value)

    threads = [threading.Thread(target=changes, args=(number,)) for number in range(3)]
    [it.start() for it in threads]
    [it.join() for it in threads]
    entries = audit(replicas[0])
    assert len(kept) >= 30 and len(entries) == len(kept)
    assert sorted(kept) == [(it["revision_after"], it["after"]["share_ppm"]) for it in entries], "each acknowledged change is there, once"
    if_revision = told(replicas[0])["state_revision"] - 1
    assert change(replicas[1], "share", expect=409, share="99%", if_revision=if_revision)["title"] == "another revision"


def test_the_lease_moves_when_its_holder_is_killed(start, fleet):
    """Steps that a controller takes: each once, whoever takes it."""
    replicas = fleet(start(Redis), stage="stage: ramp, ramp: {steps: [10%, 20%, 30%, 40%, 50%, 60%, 70%, 80%], hold_each: 2s, control: 0%}")
    first = controller(replicas)[0]
    running, answers = [True], []

    def client():
        user = 0
        while running[0]:
            for it in replicas:
                if it.popen.poll() is None:
                    user += 1
                    try:
                        answers.append(send(it.port, "GET", "/r", [("X-User", str(user))]).status)
                    except OSError:
                        assert it.popen.poll() is not None or it is first
            time.sleep(0.002)

    thread = threading.Thread(target=client)
    thread.start()
    try:
        share = lambda it: it.api("/api/v1/routes/r")[1]["share_ppm"]  # noqa: E731
        wait_for("a step", lambda: share(first) >= 100_000, seconds=20)
        first.stop(signal.SIGKILL)
        left = [it for it in replicas if it is not first]
        begun = time.monotonic()
        second = wait_for("another controller", lambda: [it for it in left if told(it)["store"]["controller"]], seconds=10)[0]
        moved = time.monotonic() - begun
        reached = share(second)
        wait_for("the next step", lambda: all(share(it) > reached for it in left), seconds=30)
    finally:
        running[0] = False
        thread.join()
    print(f"the lease moved in {moved:.1f} s")
    assert moved < 6 and set(answers) == {200}
    shares = [it["after"]["share_ppm"] for it in audit(second)]
    assert shares == sorted(set(shares)) and all(it["actor"] == "controller" for it in audit(second)), "no step is taken twice"
    times = [it["at_unix_s"] for it in audit(second)]
    assert all(later - earlier >= 2 for earlier, later in zip(times, times[1:])), "and none early"


@pytest.mark.parametrize("keep", [True, False], ids=["restarted", "emptied"])
def test_the_store_stopped_and_started_under_load(start, fleet, keep):
    redis = start(Redis, keep=keep)
    replicas = fleet(redis)
    change(replicas[0], "promote")
    wait_for("all at 1 %", lambda: all(it.api("/api/v1/routes/r")[1]["share_ppm"] == 10_000 for it in replicas))
    running, statuses = [True], []

    def client(it):
        user = 0
        while running[0]:
            user += 1
            statuses.append(send(it.port, "GET", "/r", [("X-User", str(user))]).status)

    threads = [threading.Thread(target=client, args=(it,)) for it in replicas]
    [it.start() for it in threads]
    try:
        redis.stop()
        wait_for("all to notice", lambda: not any(told(it)["store"]["up"] for it in replicas))
        # It serves, and says so; nothing is raised; a way back is in force here at once.
        assert replicas[0].api("/readyz")[1]["store"]["up"] is False and replicas[0].metric("banyan_store_up") == 0
        assert change(replicas[0], "promote", expect=503)["title"] == "not kept, and not changed"
        done = change(replicas[1], "rollback")
        assert done["kept"] is False and replicas[1].api("/api/v1/routes/r")[1]["share_ppm"] == 0
        assert replicas[0].api("/api/v1/routes/r")[1]["share_ppm"] == 10_000, "the others cannot know"
        out = replicas[2].cli("kill", "other", "--reason", "alone", "--yes")
        assert out.returncode == 0 and "in force on this replica only" in out.stderr and "reason=kill" in side(replicas[2], "/other")
        assert "reason=kill" not in side(replicas[0], "/other") and "AWAY" in replicas[2].cli("status").stdout
        start(Redis, port=redis.port, keep=keep) if not keep else start(RedisAgain, redis)
        wait_for("all to be back", lambda: all(told(it)["store"]["up"] for it in replicas), seconds=20)
        wait_for("the rollback everywhere", lambda: all(it.api("/api/v1/routes/r")[1]["state"].get("rolled_back") for it in replicas))
        wait_for("the kill everywhere", lambda: all("reason=kill" in side(it, "/other") for it in replicas))
        wait_for("nothing to be left over", lambda: all(told(it)["store"]["unsent"] == 0 for it in replicas))
    finally:
        running[0] = False
        [it.join() for it in threads]
    assert set(statuses) == {200} and len(statuses) > 300
    wait_for("one log", lambda: len({json.dumps(audit(it)) for it in replicas}) == 1)
    assert [it["action"] for it in audit(replicas[0])][0] == "promote" and sorted(it["action"] for it in audit(replicas[0])) == ["kill", "promote", "rollback"]
    # The fleet's kill is any replica's to lift, and leaves no file behind.
    assert replicas[0].cli("unkill", "other", "--reason", "over", "--yes").returncode == 0
    wait_for("no kill", lambda: not any("reason=kill" in side(it, "/other") for it in replicas))
    assert not any((it.state / "KILL.other").exists() for it in replicas)


class RedisAgain(Redis):
    """The same, in the folder of `before`."""

    def __init__(self, folder, before):
        super().__init__(before.folder, before.port)


def test_a_store_that_hangs_does_nothing_later(start, fleet):
    """Stopped in the middle: what it was told meanwhile was refused, and stays so when it goes on."""
    redis = start(Redis)
    replicas = fleet(redis, count=2)
    change(replicas[0], "promote")
    redis.popen.send_signal(signal.SIGSTOP)
    try:
        refused = change(replicas[0], "promote", expect=503)
        # The second when a look at the store was under way just then, and has given it up already.
        assert refused["title"] in ("not known to be kept", "not kept, and not changed")
        killed = replicas[1].api("/api/v1/kill", "POST", {"scope": "other"})[1]
        assert killed["kept"] is False and "reason=kill" in side(replicas[1], "/other")
        begun = time.monotonic()
        (replicas[0].state / "KILL.r").touch()
        wait_for("a kill by file", lambda: "reason=kill" in side(replicas[0], "/r"), seconds=5)
        assert time.monotonic() - begun < 2, "whatever the store does"
    finally:
        redis.popen.send_signal(signal.SIGCONT)
    wait_for("the kill everywhere", lambda: "reason=kill" in side(replicas[0], "/other"))
    wait_for("all to be kept", lambda: told(replicas[1])["store"] == {**told(replicas[1])["store"], "up": True, "unsent": 0})
    assert [it["action"] for it in audit(replicas[0])] == ["promote", "kill"], "the raise that was refused has not come"
    assert all(it.api("/api/v1/routes/r")[1]["state"]["share_ppm"] == 10_000 for it in replicas)
    assert (replicas[0].state / "KILL.r").exists(), "a file that a person made is hers"


def test_a_store_that_cannot_be_read_is_away(start, fleet):
    redis = start(Redis)
    replicas = fleet(redis, count=2)
    change(replicas[0], "promote")
    speak = lambda *args: subprocess.run(["redis-cli", "-p", str(redis.port), *args], check=True, capture_output=True, text=True).stdout.strip()  # noqa: E731
    whole = speak("HGET", "{banyan}:state", "state")
    speak("HSET", "{banyan}:state", "state", '{"revision": "from a later version"}', "revision", "7")
    wait_for("all to say so", lambda: not any(told(it)["store"]["up"] for it in replicas))
    assert change(replicas[0], "promote", expect=503)["title"] == "not kept, and not changed"
    assert change(replicas[0], "rollback")["kept"] is False and replicas[0].api("/api/v1/routes/r")[1]["share_ppm"] == 0
    speak("HSET", "{banyan}:state", "state", whole, "revision", "1")
    wait_for("the rollback everywhere", lambda: all((it.api("/api/v1/routes/r")[1]["state"] or {}).get("rolled_back") for it in replicas), seconds=20)
    # Somebody's rubbish among the replicas, and a lease that would never end.
    speak("HSET", "{banyan}:replicas", "x", "nonsense")
    speak("SET", "{banyan}:lease", "nobody")
    wait_for("a controller", lambda: [it for it in replicas if told(it)["store"]["controller"] and told(it)["store"]["up"]], seconds=10)


def test_a_replica_that_starts_without_the_store_serves_what_it_knew(start, fleet):
    redis = start(Redis)
    first = fleet(redis, count=1)[0]
    change(first, "promote")
    change(first, "promote")
    first.api("/api/v1/kill", "POST", {"scope": "other"})
    redis.stop()
    first.stop()
    again = start(Again, first)
    assert again.api("/api/v1/routes/r")[1]["share_ppm"] == 250_000 and "reason=kill" in side(again, "/other")
    assert told(again)["store"] == {"kind": "redis", "up": False, "controller": False, "unsent": 0}


def test_what_a_replica_could_not_keep_outlives_its_restart(start, fleet):
    redis = start(Redis)
    first, second = fleet(redis, count=2)
    change(first, "promote")
    redis.stop(signal.SIGKILL)
    wait_for("the store to be away", lambda: not told(second)["store"]["up"])
    assert "the fleet's store is away" in change(second, "promote", expect=503)["detail"]
    begun = int(time.time())
    assert second.api("/api/v1/kill", "POST", {"scope": "group:g", "reason": "incident"})[1]["kept"] is False
    assert change(second, "rollback", reason="incident")["kept"] is False and told(second)["store"]["unsent"] == 2
    # It is ended, and starts again when the store answers: it has no rules yet when it hears of it.
    second.stop(signal.SIGKILL)
    wait_for("two seconds more", lambda: time.time() > begun + 2)
    start(RedisAgain, redis)
    again = start(Again, second)
    wait_for("both to be kept", lambda: told(again)["store"] == {"kind": "redis", "up": True, "controller": told(again)["store"]["controller"], "unsent": 0}, seconds=20)
    assert "reason=kill" in side(again), "the kill outlives it"
    kept = {entry["action"]: entry for entry in audit(again)}
    assert {"kill", "rollback"} <= set(kept) and all(abs(kept[it]["at_unix_s"] - begun) <= 1 for it in ("kill", "rollback")), kept


def test_a_log_that_has_lost_its_beginning_takes_nobodys_copy_away(start, fleet):
    redis = start(Redis)
    replicas = fleet(redis, count=2)
    for action in ("promote", "rollback", "resume"):
        change(replicas[0], action)
    wait_for("all to know", lambda: all(len(audit(it)) == 3 for it in replicas))
    subprocess.run(["redis-cli", "-p", str(redis.port), "DEL", "{banyan}:audit"], check=True, capture_output=True)
    change(replicas[1], "promote")
    wait_for("all to go on", lambda: all(len(audit(it)) == 4 for it in replicas))
    change(replicas[0], "rollback")
    wait_for("and on", lambda: all([entry["action"] for entry in audit(it)] == ["promote", "rollback", "resume", "promote", "rollback"] for it in replicas))


def test_another_fleets_store_is_not_written_over(start, origin, fleet):
    """A state directory with a past of its own joins a fleet that has one as well: the fleet's holds."""
    one, two = start(Redis), start(Redis)
    alone = fleet(one, count=1)[0]
    for action in ("promote", "promote", "hold", "resume"):
        change(alone, action)
    fleet_of_two = fleet(two, count=1)[0]
    change(fleet_of_two, "promote", actor="somebody else")
    alone.stop()
    (alone.folder / "settings.yaml").write_text(settings(two))
    joined = start(Again, alone)
    wait_for("the fleet's state", lambda: joined.api("/api/v1/routes/r")[1]["share_ppm"] == 10_000)
    assert audit(joined) == audit(fleet_of_two) and len(audit(joined)) == 1


def test_settings_of_a_store_are_checked(start, tmp_path, origin):
    for state, why in (
        ("{store: redis}", "needs `url` or `url_file`"),
        ('{store: redis, url: "http://x"}', "expected `redis://host:port`"),
        ('{url: "redis://x"}', "the embedded store has none"),
        ('{store: redis, url: "redis://x", prefix: "a b"}', "state.prefix"),
        ('{store: redis, url_file: nowhere}', "nowhere"),
    ):
        banyan = start(Banyan, rules(origin), f"version: 1\nstate: {state}\n", wait=False)
        assert banyan.popen.wait(20) == 64 and why in banyan.text(), (state, banyan.text())


def test_a_password_does_not_show(start, tmp_path, origin):
    folder = tmp_path / "redis-secret"
    folder.mkdir()
    port = lease_port()
    server = subprocess.Popen(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--requirepass", "open-sesame-42"], stdout=subprocess.DEVNULL)
    try:
        wait_for("redis", lambda: is_open(port))
        (tmp_path / "url").write_text(f"redis://:open-sesame-42@127.0.0.1:{port}\n")
        banyan = start(Banyan, rules(origin), f"version: 1\nstate: {{store: redis, url_file: {tmp_path / 'url'}}}\n")
        wait_for("the store", lambda: told(banyan)["store"]["up"])
        assert change(banyan, "promote")["kept"] is True
        assert "sesame" not in banyan.text() and "sesame" not in json.dumps(told(banyan))
    finally:
        server.terminate()
        server.wait(20)


def test_a_shared_limit_is_one_for_all_and_each_has_its_part_while_the_store_is_away(start, origin):
    redis = start(Redis)
    text = f"""
version: 1
backends: {{b: {{urls: ["http://127.0.0.1:{origin}"]}}}}
routes:
  - {{id: r, match: {{prefix: /r}}, legacy: b, limit: {{key: header.X-Client, rate: 1/m, burst: 12, shared: true}}}}
  - {{id: quick, match: {{prefix: /quick}}, legacy: b, limit: {{key: header.X-Client, rate: 20/s, burst: 5, shared: true}}}}
"""
    replicas = [start(Banyan, text, settings(redis)) for _ in range(3)]
    wait_for("all to know each other", lambda: all(len(told(it)["fleet"]["replicas"]) == 3 for it in replicas))

    def burst(client, count=30, path="/r"):
        """As if by a load balancer; from ten clients at once."""
        answers = []
        threads = [threading.Thread(target=lambda n=n: answers.append(send(replicas[n % 3].port, "GET", path, [("X-Client", client)]))) for n in range(count)]
        [it.start() for it in threads]
        [it.join() for it in threads]
        return answers

    for client in ("a", "b"):
        answers = burst(client)
        assert sorted(it.status for it in answers) == [200] * 12 + [429] * 18, client
        waits = [int(header(it.headers, "retry-after")) for it in answers if it.status == 429]
        assert all(55 <= wait <= 60 for wait in waits), waits
    assert sum(it.metric("banyan_limit_local_total", route="r") or 0 for it in replicas) == 0
    # In the long run the rate, of all together.
    begun, passed = time.monotonic(), 0
    while time.monotonic() - begun < 2:
        passed += sum(it.status == 200 for it in burst("c", 6, "/quick"))
    most = 5 + 20 * (time.monotonic() - begun)
    assert most * 0.8 <= passed <= most + 1, (passed, most)
    # Away: 12 in all, 4 each; a store that hangs holds nobody up.
    redis.popen.send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    assert [send(it.port, "GET", "/r", [("X-Client", "d")]).status for it in replicas for _ in range(6)] == [200, 200, 200, 200, 429, 429] * 3
    assert time.monotonic() - begun < 3
    assert all(it.metric("banyan_limit_local_total", route="r") >= 4 for it in replicas)
    # What was spent before is known to be, as long as it is.
    assert {it.status for it in burst("a", 9)} <= {200, 429}
    redis.popen.send_signal(signal.SIGCONT)
    wait_for("the store", lambda: all(told(it)["store"]["up"] for it in replicas))
    wait_for("the fleet's limit", lambda: sorted(it.status for it in burst(f"e{time.monotonic()}")) == [200] * 12 + [429] * 18, seconds=10)


def test_a_shared_breaker_opens_and_closes_for_all(start, origin):
    redis, port = start(Redis), lease_port()
    text = f"""
version: 1
backends:
  old: {{urls: ["http://127.0.0.1:{origin}"]}}
  new: {{urls: ["http://127.0.0.1:{port}"], breaker: {{failures: 3, open_for: 3s, probes: 1, shared: true}}}}
routes: [{{id: r, match: {{prefix: /r}}, legacy: old, serverless: new, stage: serverless}}]
"""
    ill = start(Nginx, f"server {{ listen 127.0.0.1:{port}; location / {{ return 500; }} }}", port=port)
    one, two, alone = [start(Banyan, text.replace("shared: true", f"shared: {shared}"), settings(redis)) for shared in ("true", "true", "false")]
    wait_for("all to know each other", lambda: len(told(one)["fleet"]["replicas"]) == 3)
    for _ in range(3):
        assert send(one.port, "GET", "/r").status == 500
    wait_for("the other to have heard", lambda: two.metric("banyan_breaker_state", backend="new") == 1, seconds=3)
    assert "reason=breaker" in side(two) and send(two.port, "GET", "/r").status == 200
    assert two.metric("banyan_breaker_transitions_total", backend="new", to="open", mode="shared") == 1
    assert send(alone.port, "GET", "/r").status == 500, "it has not asked for it"
    # Well again: whoever probes first tells the others.
    ill.stop()
    start(Nginx, f"server {{ listen 127.0.0.1:{port}; location / {{ return 200 new; }} }}", port=port)
    wait_for("a probe that succeeds", lambda: send(one.port, "GET", "/r").body == b"new", seconds=10)
    wait_for("the other to have heard", lambda: two.metric("banyan_breaker_state", backend="new") == 0, seconds=3)
    assert send(two.port, "GET", "/r").body == b"new"
