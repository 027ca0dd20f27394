"""The command line and the admin API, as a user or a script meets them."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree

import pytest

import conftest
from conftest import BANYAN, ROOT, Airline, Banyan, curl, header, lease_port, needs, wait_for

BAD = sorted((ROOT / "routes/tests/bad").glob("*.yaml"))
VECTORS = sorted((ROOT / "routes/tests/vectors").glob("*.yaml"))


def banyan(*args, **kw):
    return subprocess.run([str(arg) for arg in (BANYAN, *args)], capture_output=True, text=True, timeout=60, **kw)


def rule_dir(tmp_path, text, name="rules"):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "r.yaml").write_text(text)
    return folder


GOOD = """version: 1
defaults: {legacy: l}
backends: {l: {urls: ["http://127.0.0.1:1"]}, s: {urls: ["http://127.0.0.1:2"]}}
cohorts: {shopper: {key: [cookie.SESSIONID]}}
routes:
  - {id: orders-read, match: {host: shop.example.com, path: "/orders/{id}", methods: [GET, HEAD]}, legacy: l, serverless: s, cohort: shopper, stage: canary, share: 5%, rewrite: {path: "/v2/orders/{id}"}}
  - {id: orders, match: {prefix: /orders}, legacy: l}
tests:
  - {request: GET https://shop.example.com/orders/42, route: orders-read}
  - {request: GET https://shop.example.com/ordersX, route: default}
"""


def test_every_bad_file_is_refused_with_its_code_and_place():
    assert len(BAD) >= 40
    for path in BAD:
        out = banyan("check", path, "--output", "json")
        assert out.returncode == 1, path
        report = json.loads(out.stdout)
        golden = path.with_suffix(".txt").read_text()
        places = re.findall(r"--> [^\s]*?:(\d+):(\d+)", golden)
        assert [(str(p["line"]), str(p["column"])) for p in report["problems"]] == places, path
        assert path.stem.split("--")[0] in {p["code"] for p in report["problems"]}, path
        assert "panicked" not in out.stderr


def test_check_in_all_its_outputs(tmp_path):
    good = rule_dir(tmp_path, GOOD)
    out = banyan("check", good)
    assert out.returncode == 0 and out.stdout.startswith("ok: 2 routes in 1 files, 2 tests passed")
    bad = rule_dir(tmp_path, GOOD.replace("legacy: l}\ntests", "legacy: nobody}\ntests"), "bad")
    text = banyan("check", bad)
    assert text.returncode == 1 and "error[backend_unknown]" in text.stdout and "^^^^^^" in text.stdout and "\x1b" not in text.stdout
    github = banyan("check", bad, "--output", "github").stdout
    assert github.startswith(f"::error file={bad}/r.yaml,line=7,col=") and "title=backend_unknown" in github
    sarif = json.loads(banyan("check", bad, "--output", "sarif").stdout)
    assert sarif["runs"][0]["results"][0]["ruleId"] == "backend_unknown"
    odd = rule_dir(tmp_path, GOOD.replace("id: orders,", "id: all,"), "odd")
    assert banyan("check", odd).returncode == 0 and "id_ambiguous" in banyan("check", odd).stdout
    assert banyan("check", odd, "--deny-warnings").returncode == 1
    assert banyan("check", tmp_path / "nowhere").returncode == 64
    assert banyan("frobnicate").returncode == 64 and banyan("--help").returncode == 0


def test_the_rules_own_tests(tmp_path):
    good = rule_dir(tmp_path, GOOD)
    out = banyan("test", good)
    assert out.returncode == 0 and out.stdout.endswith("2 passed, 0 failed\n")
    bad = rule_dir(tmp_path, GOOD.replace("route: default", "route: orders"), "bad")
    out = banyan("test", bad)
    assert out.returncode == 1 and "goes to `default`" in out.stdout
    assert banyan("check", bad).returncode == 1


def test_explain_names_winner_losers_and_the_arithmetic(tmp_path):
    good = rule_dir(tmp_path, GOOD)
    args = ["explain", "--rules", good, "GET", "https://shop.example.com/orders/42", "-H", "Cookie: SESSIONID=secret-session"]
    told = json.loads(banyan(*args, "--output", "json").stdout)
    assert told["route"] == "orders-read" and told["reason"] == "bucket" and told["path_sent"] == "/v2/orders/42"
    assert told["bucket"] < 1_000_000 and (told["side"] == "serverless") == (told["bucket"] < 50_000)
    assert {lost["route"] for lost in told["lost"]} == {"orders", "default"}
    text = banyan(*args).stdout
    assert "mod 1000000" in text and "more specific" in text and "secret-session" not in text
    told = json.loads(banyan("explain", "--rules", good, "POST", "https://shop.example.com/orders/42", "--output", "json").stdout)
    assert told["route"] == "orders" and any("POST" in lost["why"] for lost in told["lost"])
    assert json.loads(banyan("explain", "--rules", good, "GET", "http://h/a//b", "--output", "json").stdout)["status"] == 400
    assert banyan("explain", "--rules", good, "GET", "/relative").returncode == 64


def test_plan_shows_what_changes_and_whom_it_moves(tmp_path):
    old = rule_dir(tmp_path, GOOD)
    new = rule_dir(tmp_path, GOOD.replace("share: 5%", "share: 100%").replace("id: orders,", "id: orders-all,"), "new")
    recorded = tmp_path / "requests"
    lines = [json.dumps({"method": "GET", "url": f"https://shop.example.com/orders/{n}", "headers": {"Cookie": f"SESSIONID={n}"}}) for n in range(100)]
    recorded.write_text("\n".join(["POST https://shop.example.com/orders/1", *lines]))
    out = banyan("plan", "--from", old, "--to", new, "--requests", recorded, "--output", "json")
    plan = json.loads(out.stdout)
    assert out.returncode == 0 and plan["added"] == ["orders-all"] and plan["removed"] == ["orders"]
    assert plan["changed"] == [{"route": "orders-read", "fields": [{"field": "share", "from": "5%", "to": "100%"}]}]
    assert plan["replay"]["requests"] == 101 and plan["replay"]["route_changed"] == 1 and plan["replay"]["side_changed"] > 80
    assert banyan("plan", "--from", old, "--to", new, "--detailed-exitcode").returncode == 2
    assert banyan("plan", "--from", old, "--to", old, "--detailed-exitcode").returncode == 0
    # A comment and another order are not a change.
    same = rule_dir(tmp_path, "# a comment\n" + GOOD, "same")
    assert "no change" in banyan("plan", "--from", old, "--to", same).stdout


def test_fmt_keeps_values_and_comments(tmp_path):
    folder = rule_dir(tmp_path, GOOD.replace("routes:", "# the routes  \n\n\n\nroutes:   ") + "\n\n\n")
    before = banyan("check", folder, "--output", "json").stdout
    assert banyan("fmt", folder, "--check").returncode == 1
    assert banyan("fmt", folder).returncode == 0
    assert banyan("fmt", folder, "--check").returncode == 0 and banyan("fmt", folder).stdout == ""
    text = (folder / "r.yaml").read_text()
    assert "# the routes\n" in text and not re.search(r"[ \t]\n", text) and "\n\n\n" not in text
    assert json.loads(before)["revision"] == json.loads(banyan("check", folder, "--output", "json").stdout)["revision"]


def test_the_schema_is_current_and_a_real_validator_agrees(tmp_path):
    schema = ROOT / "routes/rules/schema.json"
    assert banyan("schema").stdout == schema.read_text()
    tool = pathlib.Path(sys.executable).with_name("check-jsonschema")
    good = subprocess.run([tool, "--schemafile", schema, ROOT / "routes/rules/airline.yaml", *VECTORS], capture_output=True, text=True)
    assert good.returncode == 0, good.stdout
    for name in ["unknown_field", "unknown_word", "value_invalid--duration", "type_mismatch--share", "field_missing"]:
        bad = subprocess.run([tool, "--schemafile", schema, ROOT / f"routes/tests/bad/{name}.yaml"], capture_output=True, text=True)
        assert bad.returncode != 0, name


def test_completions_and_the_manual():
    for shell in ["bash", "zsh", "fish"]:
        assert "healthcheck" in banyan("completions", shell).stdout
    assert ".TH banyan" in banyan("man").stdout


def test_a_running_proxy_answers_the_commands(start, tmp_path):
    airline = start(Airline)
    proxy = start(Banyan, airline.rules())
    for _ in range(3):
        curl("-H", "X-Staff: true", proxy.url + "/api/flights/BA010")
    status = proxy.cli("status")
    assert status.returncode == 0 and proxy.revision() in status.stdout and "accepted" in status.stdout
    proxy.counts(3, "banyan_requests_total", route="flight-detail", side="serverless")
    routes = json.loads(proxy.cli("routes", "--output", "json").stdout)
    detail = next(route for route in routes["routes"] if route["id"] == "flight-detail")
    assert detail["requests"]["serverless"]["answered"] == 3 and detail["share_ppm"] == 250_000
    assert "flight-detail" in proxy.cli("routes").stdout
    show = proxy.cli("show", "flight-detail")
    assert show.returncode == 0 and "team-catalog" in show.stdout and "share: 25%" in show.stdout
    assert proxy.cli("show", "nobody").returncode == 1
    assert proxy.cli("healthcheck").returncode == 0
    (proxy.state / "KILL").touch()
    wait_for("the kill", lambda: "all" in proxy.cli("status").stdout)
    # A name is a name: nothing in it asks for something else.
    for name in ("flight-detail/rollback?", "flight-detail?x=1", "flight-detail#x", "no such", "../audit"):
        assert proxy.cli("hold", name, "--reason", "x").returncode == 1 and proxy.cli("show", name).returncode == 1, name
    assert proxy.cli("promote", "").returncode == 64 and proxy.cli("set-share", "flight-detail", "30").returncode == 64
    assert proxy.cli("tap", "--reason", "odd", "--count", "1").returncode == 64 and proxy.cli("tap", "--status", "abc").returncode == 64
    refused = proxy.cli("show", "nobody", "--output", "json")
    assert refused.returncode == 1 and json.loads(refused.stdout)["status"] == 404
    assert proxy.cli("reload", "--reason", "deploy 7").returncode == 0 and proxy.cli("reload", "--if-revision", "999").returncode == 1
    # What answers has to be a Banyan.
    for command in ("status", "healthcheck"):
        other = subprocess.run([BANYAN, command, "--admin", f"http://127.0.0.1:{airline.legacy}"], capture_output=True, text=True, timeout=30)
        assert other.returncode in (1, 3) and "banyan     " not in other.stdout, other
    # Variables as other tools read them.
    for value, code in (("1", 0), ("yes", 0), ("", 0), ("off", 0), ("perhaps", 64)):
        out = subprocess.run([BANYAN, "kill", "--admin", f"http://127.0.0.1:{proxy.admin}"] + ([] if value in ("1", "yes") else ["--dry-run"]), env={**os.environ, "BANYAN_DRY_RUN" if value in ("1", "yes") else "BANYAN_YES": value}, capture_output=True, text=True, timeout=30)
        assert out.returncode == code and (code or "would be done" in out.stdout), (value, out)
    gone = subprocess.run([BANYAN, "healthcheck", "--admin", f"http://127.0.0.1:{lease_port()}"], capture_output=True, timeout=30)
    assert gone.returncode == 3


def test_the_admin_api_is_as_described_and_guarded(start):
    airline = start(Airline)
    proxy = start(Banyan, airline.rules().replace("  loyalty-fn: {", "  loyalty-fn: {breaker: {}, "))
    described = proxy.api("/api/v1/openapi.json")[1]
    for path, methods in described["paths"].items():
        for method in methods:
            real = path.replace("backends/{id}", "backends/loyalty-fn").replace("{id}", "loyalty").replace("{action}", "hold").replace("{switch}", "kill")
            # Streams that end.
            real += {"/api/v1/events": "?count=1", "/api/v1/tap": "?count=0"}.get(path, "")
            bodies = {"/api/v1/explain": {"url": "http://air.example/api/loyalty/kim"}, "/api/v1/{switch}": {"scope": "bookings"}, "/api/v1/backends/{id}/breaker": {"state": "auto"}}
            body = bodies.get(path, {}) if method == "post" else None
            assert proxy.api(real, method.upper(), body)[0] == 200, (method, path)
    told = proxy.api("/api/v1/explain", "POST", {"method": "GET", "url": "http://air.example/api/loyalty/kim"})[1]
    assert told["route"] == "loyalty" and told["side"] == "serverless"
    base = f"http://127.0.0.1:{proxy.admin}"
    assert curl("-H", "Host: evil.example", base + "/api/v1/routes")[0] == 403
    assert curl("-H", "Host: evil.example", base + "/metrics")[0] == 200
    assert curl("-X", "POST", "-d", "{}", "-H", "Content-Type: text/plain", base + "/api/v1/reload")[0] == 415
    assert curl("-X", "POST", "-d", "not json", "-H", "Content-Type: application/json", base + "/api/v1/explain")[0] == 400
    assert curl("-X", "DELETE", base + "/api/v1/routes")[0] == 405
    status, headers, body = curl(base + "/api/v1/routes/nobody")
    assert status == 404 and header(headers, "content-type") == "application/problem+json" and json.loads(body)["status"] == 404


def test_metrics_are_clean_and_named_as_promised(start):
    needs("promtool")
    airline = start(Airline)
    proxy = start(Banyan, airline.rules())
    for path in ["/", "/api/flights", "/api/loyalty/x", "/a//b", "/beta"]:
        curl(proxy.url + path)
    text = proxy.api("/metrics")[1]
    lint = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30)
    assert lint.returncode == 0 and lint.stderr == "" and lint.stdout == "", lint
    for name in ["requests_total", "request_duration_seconds_bucket", "upstream_duration_seconds_bucket", "route_stage", "route_share_ratio",
                 "kill_switch", "backend_health", "unclaimed_total", "config_last_reload_successful",
                 "config_last_reload_success_timestamp_seconds", "config_info", "build_info"]:
        assert f"\nbanyan_{name}{{" in text or f"\nbanyan_{name} " in text, name
    assert "/api/" not in text, "no path is a label"


def test_the_demo_shows_both_sides_and_follows_an_edit():
    port, admin = lease_port(), lease_port()
    demo = subprocess.Popen([BANYAN, "demo", "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for("the demo", lambda: conftest.is_open(port), seconds=20)
        folder = pathlib.Path(f"/tmp/banyan-demo-{port}/rules")

        def both():
            out = banyan("routes", "--admin", f"http://127.0.0.1:{admin}", "--output", "json")
            routes = {route["id"]: route["requests"] for route in json.loads(out.stdout)["routes"]} if out.returncode == 0 else {}
            search = routes.get("flight-search")
            return search and search["legacy"]["answered"] > 0 and search["serverless"]["answered"] > 0

        wait_for("both sides answering", both, seconds=60)
        rules = (folder / "airline.yaml").read_text()
        (folder / "airline.yaml").write_text(rules.replace("share: 25%", "share: 100%"))
        wait_for("the split to follow", lambda: "side=serverless" in header(curl(f"http://127.0.0.1:{port}/api/flights/BA010")[1], "x-banyan"), seconds=5)
        out = banyan("routes", "--admin", f"http://127.0.0.1:{admin}", "--output", "json")
        assert all(side["failed"] == 0 for route in json.loads(out.stdout)["routes"] for side in route["requests"].values())
    finally:
        demo.terminate()
        assert demo.wait(20) == 0
        shutil.rmtree(f"/tmp/banyan-demo-{port}", ignore_errors=True)
        demo.stdout.close()
        demo.stderr.close()


@pytest.mark.parametrize("path", ["/", "/flights", "/kr/notice", "/api/flights?from=ICN"])
def test_the_airline_answers_through_the_proxy_as_it_does_alone(start, path):
    airline = start(Airline)
    proxy = start(Banyan, airline.rules().replace("share: 50%", "share: 0%"))
    direct = curl("-H", "Host: air.example", f"http://127.0.0.1:{airline.legacy}{path}")
    through = curl("-H", "Host: air.example", "-b", "SESSIONID=x", proxy.url + path)
    # The list of flights says when it was made.
    timeless = [re.sub(rb"Generated at [0-9:.]+", b"", body) for body in (direct[2], through[2])]
    assert direct[0] == through[0] and timeless[0] == timeless[1] and header(direct[1], "content-type") == header(through[1], "content-type")


def test_size_has_the_worked_example_in_every_form():
    base = ["size", "--rate", "10000", "--service-time", "50ms", "--legacy-limit", "1000", "--functions", "5000", "--memory-gb", "1.5"]
    run = lambda *args: subprocess.run([BANYAN, *args], capture_output=True, text=True, timeout=20)  # noqa: E731
    text = run(*base)
    assert text.returncode == 0 and "715" in text.stdout and "/27" in text.stdout and "2500 addresses" in text.stdout, text
    told = json.loads(run(*base, "--output", "json").stdout)["size"]
    assert (told["concurrent_calls"], told["pooled_connections"], told["prefix"], told["addresses_2018"]) == (500.0, 715, 27, 2500)
    picture = run(*base, "--output", "svg").stdout
    assert xml.etree.ElementTree.fromstring(picture).tag.endswith("svg") and "715 connections" in picture
    assert run(*base, "--azs", "0").returncode == 64 and run("size", "--rate", "1").returncode == 64
