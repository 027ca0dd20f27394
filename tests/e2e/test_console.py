"""The console in Debian's Chromium, as people use it; `BANYAN_SCREENSHOTS=folder` keeps pictures of its pages (`make screenshots`)."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import threading

import pytest
import yaml
from conftest import ROOT, Again, Airline, Banyan, Nginx, curl, header, lease_port, needs, wait_for
from test_observe import many

HERE = ROOT / "tests/browser"
PEOPLE = {"vera": "viewer", "olga": "operator"}


def test_the_built_files_are_those_that_the_source_gives():
    subprocess.run(["node", "build.mjs", "--check"], cwd=ROOT / "proxy/console", check=True)


class Yaml12(yaml.SafeLoader):
    """`on` is a word, as it is for Banyan."""


Yaml12.yaml_implicit_resolvers = {first: [it for it in all_of if it[0] != "tag:yaml.org,2002:bool" or first in "tTfF"] for first, all_of in yaml.SafeLoader.yaml_implicit_resolvers.items()}


class Story:
    """A story told by the browser: what it saw, by name; `answer(what)` waits for it to ask, does what is to be done, and lets it go on."""

    def __init__(self, banyan, name, *more, reacts=None):
        needs("node")
        args = ["node", HERE / "console.mjs", shutil.which("chromium"), name, f"http://127.0.0.1:{banyan.admin}", *more]
        process = subprocess.Popen([str(arg) for arg in args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE)
        self.saw = {}
        timer = threading.Timer(240, process.kill)
        timer.start()
        for line in process.stdout:
            told = json.loads(line)
            self.saw.setdefault(told["what"], []).append(told["value"])
            if told["what"] in (reacts or {}):
                reacts[told["what"]](told["value"])
                process.stdin.write("go on\n")
                process.stdin.flush()
        timer.cancel()
        assert process.wait(30) == 0, self.saw
        assert self.saw["problems"] == [[]], self.saw["problems"]

    def __getitem__(self, what):
        (value,) = self.saw[what]
        return value


def ramp(rules, backend="monolith"):
    """The airline with a route that moves by itself, and a way out."""
    moving = """  - {id: moving, owner: team-catalog, match: {prefix: /moving}, legacy: monolith, serverless: catalog-fn, cohort: passenger, effects: safe, stage: ramp, shadow: {sample: 100%}, rewrite: {path: /api/flights/BA010},
     ramp: {steps: [10%, 50%, 100%], hold_each: 2s, control: 0%, roll_back_when: {error_rate: "> legacy + 50pp", for: 30s, min_requests: 50}}}
egress:
  - {id: core-banking, listener: raw, callers: {cidr: [10.64.0.0/16]}, to: {host: 127.0.0.1, ports: [8443]}, via: {connections: {max: 100, queue: 500, queue_wait: 1s}}}
"""
    return rules.split("tests:")[0] + moving


def settings(folder, more=""):
    folder.mkdir(parents=True, exist_ok=True)
    web, raw = lease_port(), lease_port()
    return web, f"version: 1\nlisteners:\n  - {{name: public, address: '127.0.0.1:{web}'}}\n  - {{name: raw, address: '127.0.0.1:{raw}', mode: tcp}}\n{more}"


@pytest.fixture
def proxy(start, tmp_path):
    """The airline behind a proxy, and passengers who do not stop."""
    airline = start(Airline)
    web, text = settings(tmp_path)
    banyan = start(Banyan, ramp(airline.rules()), text, listen=False)
    banyan.port, over = web, threading.Event()
    fare = '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><q:GetFareQuote xmlns:q="urn:banyan-air:fares"><q:Flight>BA010</q:Flight></q:GetFareQuote></s:Body></s:Envelope>'

    def passengers():
        number = 0
        while not over.is_set():
            number += 1
            with contextlib.suppress(AssertionError):
                for path in ("/moving", "/api/flights/BA010", "/api/loyalty/member-1", "/unclaimed/things/42"):
                    curl("-H", f"Cookie: SESSIONID=s{number}", f"http://127.0.0.1:{web}{path}", check=False)
                curl("-H", "Content-Type: text/xml", "--data", fare, f"http://127.0.0.1:{web}/soap/fares", check=False)

    threads = [threading.Thread(target=passengers) for _ in range(2)]
    [thread.start() for thread in threads]
    yield banyan
    over.set()
    [thread.join() for thread in threads]


def test_a_ramp_is_watched_rolled_back_killed_and_brought_back(proxy):
    story = Story(proxy, "ramp")
    assert story["shares"][-3:] == [10, 50, 100] and story["steps"] == ["✓ 10 %", "✓ 50 %", "✓ 100 %"], (story["shares"], story["steps"])
    assert story["after rollback"] == 0 and any("→ 0 %" in line for line in story["rollback"]["effect"])
    assert story["rollback"]["command"] == f"banyan rollback moving --admin http://127.0.0.1:{proxy.admin} --reason 'it looks odd'"
    assert "route:moving" in story["banner"] and any("Legacy answers" in line for line in story["kill"]["effect"])
    assert story["share"]["command"].startswith("banyan set-share moving 75%") and story["kill all"]["command"].startswith("banyan kill all ")
    by_hand = [row[1:] for row in story["audit"] if row[0] != "controller"]
    assert by_hand == [["resume", "moving"], ["unkill", "route:moving"], ["kill", "route:moving"], ["rollback", "moving"], ["share", "moving"]], story["audit"]
    # What the page says as a command is one.
    done = proxy.cli(*re.match(r"banyan (rollback moving) --admin \S+ (--reason) '(.*)'", story["rollback"]["command"]).expand(r"\1 \2 \3").split(" ", 3))
    assert done.returncode == 0, done.stderr
    assert proxy.api("/api/v1/revision")[1]["kill"] == []


def test_a_difference_is_opened_and_pinned_by_the_patch_of_the_page(proxy):
    def proposed():
        return any(it["path"].endswith("MessageID") for it in proxy.api("/api/v1/proposals?route=fares")[1]["proposals"])

    wait_for("a proposal for the fares' ids", proposed, seconds=90)

    def pin(patch):
        (change,) = yaml.safe_load(patch)["routes"]
        path = proxy.rules / "rules.yaml"
        rules = yaml.load(path.read_text(), Yaml12)
        route = next(it for it in rules["routes"] if it["id"] == change["id"])
        route.setdefault("shadow", {}).setdefault("rules", {}).update(change["shadow"]["rules"])
        proxy.write_rules(yaml.safe_dump(rules))
        wait_for("comparisons under the new rules", lambda: 0 < proxy.api("/api/v1/evidence/fares")[1]["compared"] < 50)

    story = Story(proxy, "differences", reacts={"patch": pin})
    legacy, serverless = story["example"]
    assert legacy.startswith("uuid:") and serverless.startswith("uuid:") and legacy != serverless, story["example"]
    assert yaml.safe_load(story["patch"])["routes"][0]["shadow"]["rules"] == {"/Envelope/Header/MessageID": "uuid"}
    assert any("Fare" in path for path in story["left"]) and not any("MessageID" in path for path in story["left"])


def test_who_may_only_look_is_told_so_and_refused(start, tmp_path):
    airline = start(Airline)
    token = lambda name: f"token-of-{name}-0123456789"
    lines = [f"  - {{name: {name}, role: {role}, sha256: {hashlib.sha256(token(name).encode()).hexdigest()}}}" for name, role in PEOPLE.items()]
    (tmp_path / "tokens.yaml").write_text("version: 1\ntokens:\n" + "\n".join(lines) + "\n")
    _, text = settings(tmp_path, f"admin: {{tokens: {tmp_path / 'tokens.yaml'}}}\n")
    banyan = start(Banyan, ramp(airline.rules()), text, listen=False)
    story = Story(banyan, "roles", token("vera"), token("olga"))
    assert story["viewer"] == {"buttons": 0, "kill": True} and story["by hand"] == [403, "role not sufficient"]
    assert "olga (operator)" in story["operator"]
    entries = banyan.api("/api/v1/audit", headers={"Authorization": f"Bearer {token('vera')}"})[1]["entries"]
    assert [(it["action"], it["reason"]) for it in entries if it["actor"] != "controller"] == [("hold", "let me see")] and entries[-1]["actor"] == "olga"
    # Lines of the log are for who may operate.
    assert banyan.api("/api/v1/tap", headers={"Authorization": f"Bearer {token('vera')}"}, check=False)[0] == 403
    assert banyan.api("/api/v1/events", check=False)[0] == 401


def test_a_stream_that_drops_is_told_and_taken_up_again(start, tmp_path):
    airline = start(Airline)
    _, text = settings(tmp_path)
    banyan = start(Banyan, ramp(airline.rules()), text, listen=False)
    story = Story(banyan, "drop", reacts={"live": lambda _: banyan.stop(), "lost": lambda _: start_again(start, banyan)})
    assert story["live"] == story["lost"] == story["again"] > 5


def start_again(start, banyan):
    start(Again, banyan)


def test_every_page_is_fit_for_all_in_both_schemes(proxy):
    wait_for("differences", lambda: proxy.api("/api/v1/differences")[1]["differences"])
    wait_for("a template", lambda: proxy.api("/api/v1/unclaimed")[1]["templates"])
    folder = os.environ.get("BANYAN_SCREENSHOTS")
    if folder:
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        wait_for("half a minute of charts", lambda: len(proxy.api("/api/v1/history/moving")[1]["points"]) >= 4, seconds=60)
        assert proxy.cli("hold", "moving", "--reason", "the payments team asked for a day").returncode == 0
    story = Story(proxy, "pages", *([pathlib.Path(folder).resolve()] if folder else []))
    found = story.saw["axe"]
    assert len(found) == 16 and all(it["passes"] > 10 for it in found)
    assert not [it for it in found if it["violations"]], [it for it in found if it["violations"]]
    assert not [it for it in story.saw["width"] if not it["fits"]], [it for it in story.saw["width"] if not it["fits"]]
    assert story.saw["inside"] == [True, True] and story.saw["focus is back"] == [True, True]


def seconds_of(process):
    fields = pathlib.Path(f"/proc/{process.popen.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_five_hundred_routes_are_there_in_a_second_and_cost_little_while_one_looks(start):
    port = lease_port()
    start(Nginx, f"server {{ listen 127.0.0.1:{port}; location / {{ return 200 ok; }} }}", port=port)
    banyan = start(Banyan, many(port, 500), "version: 1\nlogs: {access: off}\n")
    times = []
    story = Story(banyan, "many", reacts={"open": lambda _: times.append(seconds_of(banyan)), "measured": lambda _: times.append(seconds_of(banyan))})
    spent = times[1] - times[0]
    print(f"500 routes: there after {story['rows ms']:.0f} ms, usable after {story['interactive ms']:.0f} ms; in 10 s the page takes {story['page seconds of 10']:.2f} s of a core, the proxy {spent:.2f} s")
    assert story["interactive ms"] < 1_000 and story["page seconds of 10"] < 0.5 and spent < 0.5


def test_no_other_page_can_frame_name_or_steer_it(start, tmp_path):
    airline = start(Airline)
    _, text = settings(tmp_path)
    banyan = start(Banyan, ramp(airline.rules()), text, listen=False)
    url = f"http://127.0.0.1:{banyan.admin}"
    status, headers, _ = curl(f"{url}/")
    assert status == 303 and header(headers, "location") == "/console/"
    for path in ("/console/", "/console/console.js", "/console/console.css", "/console/icon.svg"):
        status, headers, body = curl(f"{url}{path}")
        policy = header(headers, "content-security-policy")
        assert status == 200 and body and "unsafe" not in policy and "frame-ancestors 'none'" in policy and "default-src 'none'" in policy
        assert header(headers, "x-frame-options") == "DENY" and header(headers, "x-content-type-options") == "nosniff"
        # A name that somebody's DNS points here is not ours.
        assert curl("-H", "Host: rebound.example", f"{url}{path}")[0] == 403
    assert curl("-X", "POST", f"{url}/console/")[0] == 405 and curl(f"{url}/console/other.js")[0] == 404
    # What a form or a script of another page could send without asking first.
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        assert curl("-H", f"Content-Type: {kind}", "--data", '{"reason":"x"}', f"{url}/api/v1/kill")[0] == 415
    assert not any(name.startswith("access-control") for name, _ in curl("-H", "Origin: https://evil.example", f"{url}/api/v1/routes")[1])
    assert curl("-X", "OPTIONS", "-H", "Origin: https://evil.example", "-H", "Access-Control-Request-Method: POST", f"{url}/api/v1/kill")[0] == 405
    assert not list(banyan.state.glob("KILL*"))
