"""What ops watch: dashboards, recording rules and alerts, with the real Prometheus and Alertmanager beside a proxy that has something of everything to show.
Every expression has to give a series; alerts fire when there is a reason, and are over when it is gone."""

import http.server
import json
import re
import subprocess
import sys
import threading
import urllib.parse
import urllib.request

import pytest
import yaml
from conftest import ROOT, Airline, Banyan, Nginx, Process, curl, is_open, lease_port, needs, wait_for
from emulators import ROOT_KEY, Ministack, environment
from proxy_header import header as proxy_header
from test_egress import GET, VPCE, talk
from test_lambda import MIRROR

FOLDER = ROOT / "dashboards"
BOARDS = sorted((FOLDER / "grafana").glob("*.json"))
ALERTS = [rule for group in yaml.safe_load((FOLDER / "prometheus/alerts.yaml").read_text())["groups"] for rule in group["rules"]]


def test_dashboards_are_those_that_are_built_and_well_made():
    assert subprocess.run([sys.executable, FOLDER / "build.py", "--check"]).returncode == 0
    assert len(BOARDS) == 7
    for path in BOARDS:
        board = json.loads(path.read_text())
        assert board["title"] and board["description"] and board["schemaVersion"] == 39 and "__inputs" not in board
        assert [it["name"] for it in board["templating"]["list"] if it["type"] == "datasource"] == ["datasource"]
        taken = set()
        for panel in board["panels"]:
            where = (path.name, panel["title"])
            assert panel["title"] and panel["description"].endswith(".") and panel["fieldConfig"]["defaults"]["unit"], where
            assert panel["datasource"]["uid"] == "${datasource}" and all(it["datasource"]["uid"] == "${datasource}" for it in panel["targets"]), where
            assert not any(re.search(r"\[\d+[smh]\]", it["expr"]) for it in panel["targets"]), where
            place = panel["gridPos"]
            cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
            assert not cells & taken and place["x"] + place["w"] <= 24, where
            taken |= cells
        assert len({it["id"] for it in board["panels"]}) == len(board["panels"])


def test_rules_alerts_and_routes_of_alerts_are_valid_and_have_their_pages():
    for command in (["promtool", "check", "rules", "recording.yaml", "alerts.yaml"], ["promtool", "test", "rules", "alerts_test.yaml"], ["promtool", "check", "config", "prometheus.yaml"], ["amtool", "check-config", "alertmanager.yaml"]):
        needs(command[0])
        out = subprocess.run(command, cwd=FOLDER / "prometheus", capture_output=True, text=True)
        assert out.returncode == 0, (command, out.stdout + out.stderr)
    pages = set(re.findall(r"^## (\w+)$", (ROOT / "docs/runbooks.md").read_text(), re.M))
    assert {rule["alert"] for rule in ALERTS} == pages
    tested = (FOLDER / "prometheus/alerts_test.yaml").read_text()
    for rule in ALERTS:
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{rule['alert'].lower()}" and rule["labels"]["severity"] in ("page", "ticket")
        assert f"alertname: {rule['alert']}" in tested, f"{rule['alert']} has no unit test"


class Prometheus(Process):
    def __init__(self, folder, admin, alertmanager):
        folder.mkdir(parents=True, exist_ok=True)
        self.port = lease_port()
        for name in ("recording.yaml", "alerts.yaml"):
            # The same rules, with less patience.
            text = (FOLDER / "prometheus" / name).read_text().replace("interval: 30s", "interval: 1s")
            text = re.sub(r"for: \w+", "for: 1s", text)
            if name == "recording.yaml":
                text = text.replace("[5m]", "[5s]")
            (folder / name).write_text(text.replace("[10m]", "[10s]"))
        (folder / "prometheus.yaml").write_text(f"""
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [recording.yaml, alerts.yaml]
alerting: {{alertmanagers: [{{static_configs: [{{targets: ["127.0.0.1:{alertmanager}"]}}]}}]}}
scrape_configs: [{{job_name: banyan, static_configs: [{{targets: ["127.0.0.1:{admin}"]}}]}}]
""")
        super().__init__(["prometheus", f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{self.port}"], folder, folder / "log")
        wait_for("Prometheus", lambda: is_open(self.port))

    def query(self, expression):
        url = f"http://127.0.0.1:{self.port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from None


class Alertmanager(Process):
    def __init__(self, folder, hook):
        folder.mkdir(parents=True, exist_ok=True)
        self.port = lease_port()
        text = (FOLDER / "prometheus/alertmanager.yaml").read_text().replace("127.0.0.1:9099", f"127.0.0.1:{hook}")
        text = re.sub(r"group_wait: \w+", "group_wait: 0s", text)
        (folder / "alertmanager.yaml").write_text(re.sub(r"group_interval: \w+", "group_interval: 1s", text))
        super().__init__(["prometheus-alertmanager", f"--config.file={folder}/alertmanager.yaml", f"--storage.path={folder}/data", f"--web.listen-address=127.0.0.1:{self.port}", "--cluster.listen-address="], folder, folder / "log")
        wait_for("Alertmanager", lambda: is_open(self.port))


class Hook:
    """Takes what Alertmanager sends: (receiver, alert, status), as they come."""

    def __init__(self):
        told = self.told = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                told.extend((self.path, alert["labels"]["alertname"], alert["status"]) for alert in body["alerts"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def fleet(start, certificates):
    """A proxy with something of everything, traffic that does not end, and who watches it."""
    airline, functions = start(Airline), start(Ministack)
    functions.function("v2", MIRROR)
    core, web, tls, tunnel = lease_port(), lease_port(), lease_port(), lease_port()
    start(Nginx, f"server {{ listen 127.0.0.1:{core}; location / {{ return 200 core; }} location /bad {{ return 503; }} location /moves/same {{ return 304; }} }}", port=core)
    rules = airline.rules().split("tests:")[0] + f"""  - {{id: capped, match: {{prefix: /capped}}, legacy: capped}}
  - {{id: moves, match: {{prefix: /moves}}, legacy: capped, serverless: worse, stage: ramp, effects: safe, shadow: {{sample: 100%}}, ramp: {{steps: [10%, 50%, 100%], hold_each: 1h, advance_when: {{parity: "99% at 95%"}}}}}}
  - {{id: worse, match: {{prefix: /worse}}, legacy: capped, serverless: worse, stage: canary, share: 50%, retry: {{attempts: 1, on: [503]}}}}
  - {{id: falls, match: {{prefix: /falls}}, legacy: capped, serverless: worse, stage: canary, share: 100%, fallback: {{to: legacy, on: [503]}}}}
  - {{id: called, match: {{prefix: /called}}, serverless: fn, stage: serverless}}
egress:
  - {{id: core, listener: tunnel, callers: {{vpce: [{VPCE}]}}, to: {{host: 127.0.0.1, ports: [{core}]}}, via: {{connections: {{max: 5}}}}}}
"""
    extra = f"""  capped: {{urls: ["http://127.0.0.1:{core}"], connections: {{max: 5}}, breaker: {{failures: 100}}}}
  worse: {{urls: ["http://127.0.0.1:{core}"], path_prefix: /bad}}
  fn: {{lambda: {{function: v2, endpoint: "{functions.url}", log_tail: true, warm: {{concurrency: 1, every: 2s}}}}}}
"""
    rules = re.sub(r"^backends:\n", "backends:\n" + extra, rules, flags=re.M)
    settings = f"""version: 1
aws: {{region: eu-west-1, prices: {{default: {{requests_per_million: 0.2, gb_second: 0.0000166667}}}}}}
listeners:
  - {{name: public, address: "127.0.0.1:{web}"}}
  - {{name: tls, address: "127.0.0.1:{tls}", tls: {{cert: {certificates}/server.pem, key: {certificates}/server.key}}}}
  - {{name: tunnel, address: "127.0.0.1:{tunnel}", mode: tcp, proxy_protocol: {{from: [127.0.0.0/8]}}}}
"""
    banyan = start(Banyan, rules, settings, listen=False, env=environment(ROOT_KEY))
    banyan.port, banyan.text_of_rules = web, rules
    hook, over = Hook(), threading.Event()
    alertmanager = start(Alertmanager, hook.port)
    prometheus = start(Prometheus, banyan.admin, alertmanager.port)

    def traffic():
        paths = ("/api/flights?from=ICN&to=NRT", "/api/flights/BA010", "/api/loyalty/member-1", "/api/fares/ICN/NRT", "/capped", "/moves", "/moves/same", "/worse", "/called", "/called/raise", "/falls", "/nothing", "/api/%2e%2e/x")
        while not over.is_set():
            for path in paths:
                # nginx says 304 there; with a condition of the client that is no answer to compare.
                condition = ("-H", 'If-None-Match: "a"') if path == "/moves/same" else ()
                curl(*condition, "-H", f"Cookie: SESSIONID={over.wait(0.01)}{len(hook.told)}", "--path-as-is", f"{banyan.url}{path}", check=False)
            talk(tunnel, proxy_header(vpce=VPCE) + GET)
            talk(tunnel, proxy_header(vpce="vpce-2") + GET)

    thread = threading.Thread(target=traffic)
    thread.start()
    yield banyan, prometheus, hook
    over.set()
    thread.join()
    hook.server.shutdown()


def test_every_expression_gives_series_and_alerts_fire_and_are_over(fleet):
    banyan, prometheus, hook = fleet

    def fired(receiver, alert, status):
        wait_for(f"{alert} to be {status}; told: {hook.told[-10:]}", lambda: (receiver, alert, status) in hook.told, seconds=60)

    # The new side is worse, and says so by itself.
    fired("/page", "BanyanServerlessWorse", "firing")
    # Rules with a fault; then good ones.
    banyan.write_rules("version: 1\nroutes: nonsense\n")
    fired("/ticket", "BanyanReloadFailed", "firing")
    banyan.write_rules(banyan.text_of_rules)
    fired("/ticket", "BanyanReloadFailed", "resolved")
    assert banyan.cli("kill", "route:capped", "--reason", "a test").returncode == 0
    fired("/page", "BanyanKillSwitch", "firing")
    assert banyan.cli("unkill", "route:capped", "--reason", "a test").returncode == 0
    fired("/page", "BanyanKillSwitch", "resolved")
    # Copies of a route differ: serverless answers 503 where legacy answers 200.
    fired("/ticket", "BanyanParityLost", "firing")
    banyan.write_rules(banyan.text_of_rules.replace("path_prefix: /bad", "path_prefix: /"))
    fired("/page", "BanyanServerlessWorse", "resolved")
    fired("/ticket", "BanyanParityLost", "resolved")

    silent = []
    for path in BOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                expression = target["expr"].replace("$__rate_interval", "1m").replace("$route", ".*")
                if not prometheus.query(expression):
                    silent.append((path.stem, panel["title"], expression))
    for group in yaml.safe_load((FOLDER / "prometheus/recording.yaml").read_text())["groups"]:
        silent += [rule["record"] for rule in group["rules"] if not prometheus.query(rule["record"])]
    assert not silent, silent
    assert subprocess.run(["promtool", "check", "metrics"], input=banyan.api("/metrics")[1], text=True, capture_output=True).returncode == 0
