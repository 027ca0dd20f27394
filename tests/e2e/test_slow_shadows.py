"""Shadows that are slow, one or many: each costs its own copies, and what was sampled is always told the end of."""

import concurrent.futures
import signal
import threading
import time

import pytest
from conftest import Again, Banyan, wait_for
from emulators import send
from test_protocols import Origin

OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Shadow(Origin):
    """Hangs while it is told to; then answers at once, or one at a time."""

    def __init__(self, hangs=False, one_takes=0.0):
        self.free, self.turn, self.one_takes = threading.Event(), threading.Lock(), one_takes
        if not hangs:
            self.free.set()
        super().__init__(self.reply)

    def reply(self, connection, data):
        self.free.wait(60)
        if self.one_takes:
            with self.turn:
                time.sleep(self.one_takes)
        connection.sendall(OK)


def routes(legacy, shadows, shadow="{sample: 100%, controls: 0%}", more="effects: safe"):
    backends = "".join(f'  {name}-new: {{urls: ["http://127.0.0.1:{it.port}"]}}\n' for name, it in shadows.items())
    each = "".join(f"  - {{id: {name}, match: {{prefix: /{name}}}, legacy: old, serverless: {name}-new, stage: shadow, {more}, shadow: {shadow}, timeouts: {{first_byte: 60s}}}}\n" for name in shadows)
    return f'version: 1\nbackends:\n  old: {{urls: ["http://127.0.0.1:{legacy.port}"]}}\n{backends}routes:\n{each}'


def ask(banyan, path, number, at_once=1, method="GET"):
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        assert all(it.status == 200 for it in pool.map(lambda at: send(banyan.port, method, f"{path}/{at}"), range(number)))


def told(banyan, route):
    return banyan.api(f"/api/v1/evidence/{route}")[1]


def ended(banyan, route, seconds=30):
    """Everything that was sampled is compared, inconclusive or dropped."""
    def all_of_it():
        it = told(banyan, route)
        return it if it["compared"] + it["inconclusive"] + it["dropped"] == it["sampled"] else None

    return wait_for(f"the end of all copies of {route}", all_of_it, seconds=seconds)


def test_one_that_drains_for_long_holds_up_nobody_and_ends_nothing(start):
    """Hundreds wait for a shadow that takes them one by one, without a pause in which it would be behind."""
    slow, fast = Shadow(hangs=True, one_takes=0.004), Shadow()
    banyan = start(Banyan, routes(Origin(lambda connection, _: connection.sendall(OK)), {"slow": slow, "fast": fast}))
    ask(banyan, "/slow", 400, 40)
    slow.free.set()
    ask(banyan, "/fast", 20)
    wait_for("the other's copies", lambda: told(banyan, "fast")["compared"] == 20, seconds=5)
    it = ended(banyan, "slow")
    assert it["compared"] >= 64 and it["sampled"] == 400
    ask(banyan, "/slow", 20)
    assert ended(banyan, "slow")["compared"] == it["compared"] + 20
    assert ended(banyan, "fast")["dropped"] == 0


def test_many_that_hang_leave_room_for_others(start):
    shadows = {f"hung{number}": Shadow(hangs=True) for number in range(8)} | {"fast": Shadow()}
    banyan = start(Banyan, routes(Origin(lambda connection, _: connection.sendall(OK)), shadows))
    for name in shadows:
        if name != "fast":
            ask(banyan, f"/{name}", 100, 20)
    ask(banyan, "/fast", 100)
    assert wait_for("the other's copies", lambda: told(banyan, "fast")["compared"] == 100, seconds=5)
    assert told(banyan, "fast")["dropped"] == 0


def test_reads_after_writes_wait_for_their_own_target_alone(start):
    hung, fast = Shadow(hangs=True), Shadow()
    verify = '{sample: 100%, policy: verify_after_write, verify: {read: "/x", lag: 50ms}}'
    banyan = start(Banyan, routes(Origin(lambda connection, _: connection.sendall(OK)), {"hung": hung, "fast": fast}, verify, "effects: unsafe"))
    ask(banyan, "/hung", 200, 20, "POST")
    ask(banyan, "/fast", 30, 1, "POST")
    assert wait_for("the other's reads", lambda: told(banyan, "fast")["compared"] == 30, seconds=5)
    assert told(banyan, "fast")["dropped"] == 0


def test_copies_of_a_backend_with_few_connections_wait_for_one(start):
    serverless = Shadow(hangs=True)
    text = routes(Origin(lambda connection, _: connection.sendall(OK)), {"r": serverless})
    banyan = start(Banyan, text.replace(f"127.0.0.1:{serverless.port}\"]", f"127.0.0.1:{serverless.port}\"], connections: {{max: 4}}"))
    ask(banyan, "/r", 40, 10)
    wait_for("copies on all connections", lambda: len(serverless.seen) == 4)
    time.sleep(0.5)
    assert len(serverless.seen) == 4, "more do not try"
    serverless.free.set()
    it = ended(banyan, "r")
    assert it["compared"] > 4 and set(it["dropped_by"]) <= {"queue_full", "connections"}, it


@pytest.mark.parametrize("way", ["rules", "resume", "end", "kill"])
def test_copies_under_way_when_the_evidence_begins_anew_are_no_part_of_it(start, tmp_path, way):
    hung = Shadow(hangs=True)
    text = routes(Origin(lambda connection, _: connection.sendall(OK)), {"r": hung})
    if way == "resume":
        text = text.replace("stage: shadow", "stage: canary, share: 0%, cohort: c") + "cohorts: {c: {key: [client.ip]}}\n"
    banyan = start(Banyan, text)
    if way == "resume":
        assert banyan.api("/api/v1/routes/r/rollback", method="POST", body={"reason": "a test"})[0] == 200
    ask(banyan, "/r", 30, 10)
    wait_for("them", lambda: told(banyan, "r")["sampled"] == 30)
    wait_for("copies to be under way", lambda: len(hung.seen) >= 30)
    match way:
        case "rules":
            banyan.write_rules(text.replace("controls: 0%", "controls: 0%, ignore: [header.vary]"))
            wait_for("the new rules", lambda: told(banyan, "r")["sampled"] == 0)
        case "resume":
            assert banyan.api("/api/v1/routes/r/resume", method="POST", body={"reason": "a test"})[0] == 200
        case "end" | "kill":
            # Counts are written once a second.
            time.sleep(4)
            banyan.popen.send_signal(signal.SIGTERM if way == "end" else signal.SIGKILL)
            banyan.popen.wait(30)
            banyan = start(Again, banyan)
    hung.free.set()
    time.sleep(0.5)
    it = told(banyan, "r")
    if way in ("end", "kill"):
        assert (it["sampled"], it["compared"], it["dropped_by"]) == (30, 0, {"aborted": 30})
    else:
        assert (it["sampled"], it["compared"], it["dropped"]) == (0, 0, 0)
    ask(banyan, "/r", 10)
    assert ended(banyan, "r")["compared"] == 10
