"""Rules change under load; the process comes and goes without cutting anyone off."""

import asyncio
import collections
import http.client
import os
import pathlib
import re
import signal
import subprocess
import threading


import pytest
import websockets.asyncio.client
import websockets.asyncio.server

from conftest import Airline, Banyan, Nginx, curl, is_open, lease_port, wait_for

RELOADS = 200


def generation(number, port, up, ws):
    return f"""
version: 1
defaults: {{legacy: l}}
backends: {{l: {{urls: ["http://127.0.0.1:{port}"]}}, up: {{urls: ["http://127.0.0.1:{up}"]}}, ws: {{urls: ["http://127.0.0.1:{ws}"]}}}}
routes:
  - {{id: a, match: {{prefix: /a}}, legacy: l, response_headers: {{set: {{X-Gen: "{number}"}}}}}}
  - {{id: b, match: {{prefix: /b}}, legacy: l, response_headers: {{set: {{X-Gen: "{number}"}}}}}}
  - {{id: upload, match: {{path: /upload}}, legacy: up, response_headers: {{set: {{X-Gen: "{number}"}}}}}}
  - {{id: chat, match: {{prefix: /chat}}, legacy: ws}}
"""


class Client(threading.Thread):
    """One keep-alive connection that is never opened again: a connection closed by a reload is a failure."""

    def __init__(self, port, number):
        super().__init__(daemon=True)
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        self.connection.connect()
        self.connection.auto_open = 0
        self.number, self.count, self.failures, self.seen = number, 0, [], set()
        self.running = True

    def run(self):
        while self.running:
            try:
                body = b"x" * 20_000 if self.number % 2 else None
                path = "/upload" if body else ("/a/1" if self.count % 2 else "/b/1")
                self.connection.request("POST" if body else "GET", path, body=body)
                answer = self.connection.getresponse()
                text = answer.read()
                if answer.status != (201 if body else 200) or (body and b"20000" not in text):
                    self.failures.append(answer.status)
                revision = re.search(r"revision=(\w+)", answer.headers["X-Banyan"]).group(1)
                self.seen.add((revision, answer.headers["X-Gen"]))
                self.count += 1
            except Exception as error:  # noqa: BLE001 - every kind of failure counts
                self.failures.append(repr(error))
                return


def test_200_reloads_under_mixed_load_fail_nothing_and_close_nothing(start, certificates):
    a, ws_port, tls = lease_port(), lease_port(), lease_port()
    start(Nginx, f'server {{ listen 127.0.0.1:{a}; location / {{ return 200 "ok\\n"; }} }}', a=a)
    airline = start(Airline)
    plain = lease_port()
    settings = f"""
version: 1
attribution_header: true
logs: {{access: off}}
listeners:
  - {{name: plain, address: "127.0.0.1:{plain}"}}
  - {{name: site, address: "127.0.0.1:{tls}", tls: {{cert: {certificates}/server.pem, key: {certificates}/server.key}}, h2: true}}
"""
    banyan = start(Banyan, generation(0, a, airline.legacy, ws_port), settings=settings, listen=False)
    messages = []

    async def chat(ready, done):
        async def echo(connection):
            async for message in connection:
                await connection.send(message)

        async with websockets.asyncio.server.serve(echo, "127.0.0.1", ws_port):
            async with websockets.asyncio.client.connect(f"ws://127.0.0.1:{plain}/chat") as client:
                ready.set()
                while not done.is_set():
                    await client.send("tick")
                    messages.append(await client.recv())
                    await asyncio.sleep(0.02)

    ready, done = threading.Event(), threading.Event()
    chatting = threading.Thread(target=lambda: asyncio.run(chat(ready, done)), daemon=True)
    chatting.start()
    assert ready.wait(20)
    clients = [Client(plain, number) for number in range(6)]
    [client.start() for client in clients]
    h2 = subprocess.Popen(["h2load", "-D", "600", "-c", "2", "-m", "5", f"https://127.0.0.1:{tls}/a/2"], stdout=subprocess.PIPE, text=True)
    wrk = subprocess.Popen(["wrk", "-t1", "-c4", "-d600s", f"http://127.0.0.1:{plain}/b/2"], stdout=subprocess.PIPE, text=True)

    known = {}
    for number in range(1, RELOADS + 1):
        before = banyan.revision()
        if number % 20 == 0:
            banyan.write_rules(generation(number, a, airline.legacy, ws_port).replace("legacy: ws", "legacy: nobody"))
            wait_for("the refusal", lambda: banyan.metric("banyan_config_last_reload_successful") == 0)
            assert banyan.revision() == before and "backend_unknown" in banyan.text()
        banyan.write_rules(generation(number, a, airline.legacy, ws_port))
        known[wait_for("the new revision", lambda: (r := banyan.revision()) != before and r)] = str(number)
        # Counted just after it is published.
        wait_for("the count", lambda: banyan.metric("banyan_config_last_reload_successful") == 1)
    for client in clients:
        client.running = False
        client.join(20)
    done.set()
    chatting.join(20)
    # Ended by us: both print their totals on INT.
    wrk.send_signal(signal.SIGINT)
    h2.send_signal(signal.SIGINT)
    wrk_text = wrk.communicate(timeout=30)[0]
    h2.communicate(timeout=30)

    assert [client.failures for client in clients] == [[]] * len(clients)
    seen = set().union(*(client.seen for client in clients))
    by_revision = collections.defaultdict(set)
    for revision, number in seen:
        by_revision[revision].add(number)
    assert all(len(numbers) == 1 for numbers in by_revision.values()), "a response from a mixed rule set"
    assert all(known.get(revision, "0") == next(iter(numbers)) for revision, numbers in by_revision.items())
    assert len(seen) > RELOADS / 4, "the clients saw too few of the rule sets to mean anything"
    assert "Non-2xx" not in wrk_text and "Socket errors" not in wrk_text, wrk_text
    assert len(messages) > 50 and set(messages) == {"tick"}
    total = sum(client.count for client in clients)
    bad = sum(banyan.metric("banyan_requests_total", code=code) or 0 for code in ("400", "404", "499", "500", "502", "503", "504"))
    # wrk and h2load are interrupted with requests in flight: those, and only those, end as 499.
    assert bad - (banyan.metric("banyan_requests_total", code="499") or 0) == 0
    assert (banyan.metric("banyan_requests_total", code="499") or 0) <= 4 + 2 * 5
    print(f"{RELOADS} reloads, {total} checked requests, {len(by_revision)} revisions seen, {len(messages)} websocket messages")


def simple(port, body):
    return f'version: 1\nroutes: [{{id: r, match: {{prefix: /}}, respond: {{status: 200, body: "{body}"}}}}]\n'


def serves(banyan, body):
    wait_for(f"the body {body!r}", lambda: curl(banyan.url)[2] == body.encode())


def test_editors_config_maps_and_plain_writes_are_noticed(start):
    banyan = start(Banyan, simple(0, "one"))
    banyan.write_rules(simple(0, "two"))
    serves(banyan, "two")
    (banyan.rules / "rules.yaml").write_text(simple(0, "three"))
    serves(banyan, "three")
    # An editor that moves the old file away first.
    (banyan.rules / "rules.yaml").rename(banyan.rules / "rules.yaml~")
    (banyan.rules / "rules.yaml").write_text(simple(0, "four"))
    serves(banyan, "four")
    # Nothing left to read is refused, not served as "404 for everyone".
    (banyan.rules / "rules.yaml").unlink()
    wait_for("the refusal", lambda: banyan.metric("banyan_config_last_reload_successful") == 0)
    serves(banyan, "four")


@pytest.mark.parametrize("watch", ["notify", "poll"])
def test_a_config_map_swap_is_one_reload(start, tmp_path, watch):
    mount = tmp_path / "mount"
    for name, body in [("v1", "one"), ("v2", "two")]:
        (mount / f"..{name}").mkdir(parents=True)
        (mount / f"..{name}" / "rules.yaml").write_text(simple(0, body))
    (mount / "..data").symlink_to("..v1")
    (mount / "rules.yaml").symlink_to("..data/rules.yaml")
    settings = f"version: 1\nrules: {{dir: unused, watch: {watch}}}\n"
    process = start(BanyanAt, settings, mount)
    serves(process, "one")
    (mount / "..data.new").symlink_to("..v2")
    (mount / "..data.new").rename(mount / "..data")
    serves(process, "two")


class BanyanAt(Banyan):
    """The binary on a rule directory that is already there."""

    def __init__(self, folder, settings, rules):
        folder.mkdir(parents=True)
        (folder / "rules").symlink_to(rules)
        super().__init__(folder, {}, settings=settings)


def test_a_directory_that_is_replaced_is_watched_again(start):
    banyan = start(Banyan, simple(0, "one"))
    beside = banyan.folder / "beside"
    beside.mkdir()
    (beside / "rules.yaml").write_text(simple(0, "two"))
    banyan.rules.rename(banyan.folder / "old")
    beside.rename(banyan.rules)
    serves(banyan, "two")
    banyan.write_rules(simple(0, "three"))
    serves(banyan, "three")


def test_a_route_that_is_gone_leaves_no_series(start):
    banyan = start(Banyan, simple(0, "one").replace("id: r,", "id: before,"))
    serves(banyan, "one")
    wait_for("the count", lambda: banyan.metric("banyan_requests_total", route="before"))
    banyan.write_rules(simple(0, "two").replace("id: r,", "id: after,"))
    serves(banyan, "two")
    wait_for("the series to go", lambda: 'route="before"' not in banyan.api("/metrics")[1])


def test_so_many_routes_that_their_parsed_form_is_not_kept(start):
    """Beyond 20,000; what was written is still shown, and the next reload reads all of it again."""
    def written(changed):
        routes = "".join(f"  - {{id: r{number}, match: {{path: /p/{number}}}, respond: {{status: {204 if number != 7 else changed}}}}}\n" for number in range(20_001))
        return f"version: 1\nroutes:\n{routes}"

    def status(path):
        return curl(f"http://127.0.0.1:{banyan.port}{path}")[0]

    banyan = start(Banyan, written(205))
    assert (status("/p/7"), status("/p/20000")) == (205, 204)
    shown = banyan.api("/api/v1/routes/r20000")[1]
    assert shown["file"] == "rules.yaml" and shown["rule"] == {"id": "r20000", "match": {"path": "/p/20000"}, "respond": {"status": 204}}, shown
    before = banyan.revision()
    for text, code, serves in [(written(206), 0, 206), (written(206), 0, 206), ("version: 1\nroutes: [{id: r}]\n", 1, 206), (written(205), 0, 205)]:
        banyan.write_rules(text)
        assert banyan.cli("reload").returncode == code and status("/p/7") == serves
    assert banyan.revision() == before and banyan.api("/api/v1/routes/r7")[1]["rule"]["respond"] == {"status": 205}


def test_hup_and_the_admin_api_reload(start):
    banyan = start(Banyan, simple(0, "one"))
    assert banyan.cli("reload").returncode == 0
    (banyan.rules / "rules.yaml").write_text("version: 1\nroutes: [{id: x, match: {path: x}}]\n")
    out = banyan.cli("reload")
    assert out.returncode == 1 and "path_invalid" in out.stdout
    status, problem = banyan.api("/api/v1/reload", "POST", {}, check=False)
    assert status == 422 and {"path_invalid", "stage_backend_missing"} == {p["code"] for p in problem["problems"]}
    (banyan.rules / "rules.yaml").write_text(simple(0, "two"))
    for _ in range(5):
        banyan.popen.send_signal(signal.SIGHUP)
    serves(banyan, "two")
    assert banyan.popen.poll() is None


def test_term_cuts_no_request_in_flight_and_ends_when_idle(start):
    airline = start(Airline)
    rules = f'version: 1\ndefaults: {{legacy: l}}\nbackends: {{l: {{urls: ["http://127.0.0.1:{airline.legacy}"]}}}}\n'
    banyan = start(Banyan, rules, settings="version: 1\ndrain: {delay: 3s, deadline: 60s}\n")
    airline.faults("legacy", {"prefix": "/api/flights", "delay_ms": 7000})
    clients = [subprocess.Popen(["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", f"{banyan.url}/api/flights/BA010"], stdout=subprocess.PIPE, text=True) for _ in range(20)]
    wait_for("the requests to be in flight", lambda: banyan.metric("banyan_requests_in_flight") == 20)
    banyan.popen.send_signal(signal.SIGTERM)
    wait_for("readiness to fail", lambda: banyan.api("/readyz", check=False)[0] == 503, seconds=2.5)
    assert curl(f"{banyan.url}/healthz")[0] == 200, "the listeners stay open for the drain delay"
    wait_for("the listeners to close", lambda: not is_open(banyan.port), seconds=10)
    assert [client.communicate(timeout=30)[0] for client in clients] == ["200"] * 20
    assert banyan.popen.wait(timeout=10) == 0, "it ends long before the deadline"
    assert len(banyan.log_lines(21)) == 21, "the access log is flushed"


def test_series_of_routes_follow_the_rules(start):
    airline = start(Airline)
    head = f'version: 1\nbackends: {{l: {{urls: ["http://127.0.0.1:{airline.legacy}"]}}}}\n'
    route = lambda name, stage: f"{{id: {name}, match: {{prefix: /{name}}}, legacy: l, serverless: l, cohort: c, stage: {stage}}}"  # noqa: E731
    rules = lambda *routes: f"{head}cohorts: {{c: {{key: [client.ip]}}}}\nroutes: [{', '.join(routes)}]\n"  # noqa: E731
    banyan = start(Banyan, rules(route("a", "legacy"), route("b", "canary, share: 10%"), route("c", "legacy")))

    def series():
        lines = banyan.api("/metrics")[1].splitlines()
        return {line for line in lines if line.startswith(("banyan_route_stage{", "banyan_route_share_ratio{"))}

    share = lambda name, value: {f'banyan_route_share_ratio{{kind="{kind}",route="{name}"}} {value}' for kind in ("actual", "approved")}  # noqa: E731
    stage = lambda name, value: {f'banyan_route_stage{{route="{name}",stage="{value}"}} 1'}  # noqa: E731
    same = stage("c", "legacy") | share("c", 0)
    assert series() == same | stage("a", "legacy") | share("a", 0) | stage("b", "canary") | share("b", 0.1)
    banyan.write_rules(rules(route("b", "canary, share: 25%"), route("c", "legacy"), route("a", "serverless")))
    wait_for("the new", lambda: series() == same | stage("a", "serverless") | share("a", 1) | stage("b", "canary") | share("b", 0.25))
    banyan.write_rules(rules(route("c", "legacy"), route("d", "legacy")))
    wait_for("those that stay", lambda: series() == same | stage("d", "legacy") | share("d", 0))
    banyan.write_rules(rules(route("c", "legacy"), route("a", "legacy")))
    wait_for("one that came back", lambda: series() == same | stage("a", "legacy") | share("a", 0))
    # 2,000 have names: those that had them keep them, wherever they stand.
    banyan.write_rules(rules(*(route(f"z{number}", "legacy") for number in range(2_050)), route("c", "legacy"), route("a", "legacy")))
    wait_for("as many as may be", lambda: len(series()) == 3 * 2_000)
    assert same | stage("a", "legacy") | share("a", 0) | stage("z1997", "legacy") <= series() and not stage("z1998", "legacy") <= series()
    for number in (1997, 1998, 2049):
        assert curl(f"{banyan.url}/z{number}/healthz")[0]
    assert banyan.metric("banyan_requests_total", route="z1997") == 1 and banyan.metric("banyan_requests_total", route="other") == 2


def test_it_is_safe_as_process_1(start, tmp_path):
    if os.geteuid() != 0:
        pytest.fail("needs root for a PID namespace; `make test` runs as root in CI")
    wrapper = tmp_path / "banyan-as-1"

    class AsInit(Banyan):
        pass

    import conftest

    real = conftest.BANYAN
    wrapper.write_text(f'#!/bin/sh\nexec unshare --pid --fork --kill-child {real} "$@"\n')
    wrapper.chmod(0o755)
    conftest.BANYAN = wrapper
    try:
        banyan = start(AsInit, simple(0, "one"))
    finally:
        conftest.BANYAN = real
    child = int(subprocess.run(["pgrep", "-P", str(banyan.popen.pid)], capture_output=True, text=True).stdout.split()[0])
    status = pathlib.Path(f"/proc/{child}/status").read_text()
    assert re.search(r"NSpid:\s+\d+\s+1\n", status), "it is process 1 of its namespace"
    os.kill(child, signal.SIGHUP)
    serves(banyan, "one")
    os.kill(child, signal.SIGTERM)
    assert banyan.popen.wait(timeout=15) == 0


def test_a_taken_address_and_bad_rules_end_the_start_with_their_codes(start):
    banyan = start(Banyan, simple(0, "one"))
    import conftest

    taken = subprocess.run([conftest.BANYAN, "run", "--rules", banyan.rules, "--listen", f"127.0.0.1:{banyan.port}", "--state", banyan.state], capture_output=True, text=True, timeout=20)
    assert taken.returncode == 64 and "cannot listen" in taken.stderr
    (banyan.folder / "bad").mkdir()
    (banyan.folder / "bad/r.yaml").write_text('version: 1\nbackends:\n  f: {urls: ["https://127.0.0.1:1"], tls: {ca: nowhere.pem}}\nroutes: [{id: a, match: {path: /a}, serverless: f, stage: serverless}]\n')
    bad = subprocess.run([conftest.BANYAN, "run", "--rules", banyan.folder / "bad", "--listen", f"127.0.0.1:{lease_port()}", "--state", banyan.state], capture_output=True, text=True, timeout=20)
    assert bad.returncode == 1 and "tls_file" in bad.stdout and "r.yaml:3" in bad.stdout
    unready = start(Banyan, "version: 1\nroutes: nonsense\n", args=["--wait-for-rules"], wait=False)
    wait_for("the admin listener", lambda: is_open(unready.admin))
    assert unready.api("/livez")[0] == 200 and unready.api("/readyz", check=False)[0] == 503
    assert curl(unready.url)[0] == 503
    unready.write_rules(simple(0, "now"))
    wait_for("readiness", unready.ready)
