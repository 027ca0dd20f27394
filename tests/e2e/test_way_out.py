"""Who may go where: keys, browsers, databases, routes behind egress rules, and names that only our own servers know. Clients and servers are curl,
Chromium, psql and PostgreSQL, nginx and dnsmasq."""

import glob
import hashlib
import json
import os
import pwd
import subprocess

import pytest
from conftest import BANYAN, Banyan, Nginx, Process, curl, is_open, lease_port, wait_for
from proxy_header import header as proxy_header
from test_compare import node
from test_egress import GET, VPCE, egress, origin, talk  # noqa: F401


@pytest.fixture
def secure_origin(start, certificates):
    port = lease_port()
    start(Nginx, f"server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {certificates}/server.pem; ssl_certificate_key {certificates}/server.key; location / {{ default_type text/html; return 200 'the bank at $request_uri'; }} }}", port=port)
    return port


def test_a_browser_and_others_show_keys(start, secure_origin, certificates, tmp_path):
    digest = lambda text: hashlib.sha256(text.encode()).hexdigest()  # noqa: E731
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"version: 1\nplans: {{functions: {{rate: 1/m, burst: 8}}, others: {{rate: 1000/s}}}}\nkeys:\n  - {{name: a, plan: functions, sha256: {digest('key-a')}}}\n  - {{name: b, plan: others, sha256: {digest('key-b')}}}\n")
    port = lease_port()
    rule = f"{{id: bank, listener: out, callers: {{cidr: [127.0.0.0/8], plan: [functions]}}, to: {{host: 127.0.0.1, ports: [{secure_origin}]}}}}"
    banyan = egress(start, [rule], [f'{{name: out, address: "127.0.0.1:{port}", mode: connect}}'], f"api_keys: {keys}\n")
    url = f"https://127.0.0.1:{secure_origin}/balance"

    def through(*more):
        """What the CONNECT was answered, and the page."""
        out = subprocess.run(["curl", "-sS", "-x", f"http://127.0.0.1:{port}", "--cacert", certificates / "ca.pem", "-w", " %{http_connect}", "--max-time", "8", *more, url], capture_output=True, text=True)
        page, _, code = out.stdout.rpartition(" ")
        return code, page

    assert through() == ("407", "") and through("--proxy-user", "any:wrong") == ("407", "") and through("--proxy-user", "any:key-b") == ("407", "")
    assert b'Proxy-Authenticate: Basic realm="banyan"' in talk(port, f"CONNECT 127.0.0.1:{secure_origin} HTTP/1.1\r\n\r\n".encode())
    assert through("--proxy-user", "any:key-a") == ("200", "the bank at /balance")
    assert through("--proxy-header", "Proxy-Authorization: Bearer key-a") == ("200", "the bank at /balance")
    assert node("through.mjs", f"http://127.0.0.1:{port}", url, "any", "key-a").strip() == "the bank at /balance"
    assert "ERR_" in node("through.mjs", f"http://127.0.0.1:{port}", url)
    statuses = [through("--proxy-user", "any:key-a")[0] for _ in range(10)]
    assert statuses[-1] == "429" and "200" in statuses, statuses
    assert banyan.metric("banyan_refused_total", cause="egress_key") >= 4 and banyan.metric("banyan_refused_total", cause="api_key_rate") >= 1
    line = banyan.log_lines(where=lambda line: line.get("cause") == "api_key_rate")[-1]
    assert line["rule"] == "bank" and line["http.response.status_code"] == 429
    assert "key-a" not in banyan.access_path.read_text() + banyan.text(), "no key is ever logged"
    # Two of them are one too many.
    two = f"CONNECT 127.0.0.1:{secure_origin} HTTP/1.1\r\nProxy-Authorization: Bearer key-a\r\nProxy-Authorization: Bearer key-b\r\n\r\n".encode()
    assert talk(port, two).startswith(b"HTTP/1.1 400")


class Postgres(Process):
    """PostgreSQL as its package has it; it refuses to be root."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self.user = lease_port(), []
        if os.geteuid() == 0:
            self.user = ["runuser", "-u", "postgres", "--"]
            for part in [folder, *folder.parents]:
                if part.owner() == "root" and str(part).startswith("/tmp/"):
                    part.chmod(part.stat().st_mode | 0o111)
            os.chown(folder, pwd.getpwnam("postgres").pw_uid, -1)
        bin_folder = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]
        subprocess.run([*self.user, f"{bin_folder}/initdb", "-D", folder / "data", "-U", "tester", "-A", "trust", "--no-sync"], check=True, capture_output=True, cwd=folder)
        super().__init__([*self.user, f"{bin_folder}/postgres", "-D", folder / "data", "-p", str(self.port), "-h", "127.0.0.1", "-k", folder, "-F"], folder, folder / "log")
        wait_for("PostgreSQL", lambda: is_open(self.port))


def test_psql_works_through_a_tunnel(start):
    database, port = start(Postgres), lease_port()
    rule = f"{{id: db, listener: db, callers: {{cidr: [127.0.0.0/8]}}, to: {{host: 127.0.0.1, ports: [{database.port}]}}, via: {{connections: {{max: 2, queue: 50, queue_wait: 20s}}}}}}"
    banyan = egress(start, [rule], [f'{{name: db, address: "127.0.0.1:{port}", mode: tcp}}'])

    def psql(text):
        return subprocess.Popen(["psql", "-h", "127.0.0.1", "-p", str(port), "-U", "tester", "-d", "postgres", "-Atc", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def said(process):
        out, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
        return out.strip()

    wait_for("a database that is up", lambda: psql("select 1").wait(30) == 0)
    assert said(psql("create table accounts as select n as id, n * 10 as cents from generate_series(1, 100000) n; select sum(cents) from accounts")).splitlines()[-1] == "50000500000"
    # Ten at a time share two connections, each in its turn; nobody is refused.
    together = [psql(f"select pg_sleep(0.1), {number}, (select count(*) from pg_stat_activity where backend_type = 'client backend')") for number in range(10)]
    rows = [said(process).split("|") for process in together]
    assert sorted(int(row[1]) for row in rows) == list(range(10)) and all(int(row[2]) <= 2 for row in rows), rows
    assert len(said(psql("select repeat('x', 3000000)"))) == 3_000_000
    assert banyan.metric("banyan_source_ports", destination="db") is not None


def test_routes_lead_where_egress_rules_let_them(start, origin):  # noqa: F811
    other, web, free = lease_port(), lease_port(), lease_port()
    start(Nginx, f"server {{ listen 127.0.0.1:{other}; location / {{ return 200 other; }} }}", port=other)
    text = f"""version: 1
backends:
  core: {{urls: ["http://127.0.0.1:{origin}"]}}
  both: {{urls: ["http://127.0.0.1:{origin}", "http://127.0.0.1:{other}"]}}
  other: {{urls: ["http://127.0.0.1:{other}"]}}
routes:
  - {{id: core, match: {{prefix: /core}}, legacy: core}}
  - {{id: both, match: {{prefix: /both}}, legacy: both}}
  - {{id: back, match: {{prefix: /back}}, legacy: core, serverless: other, stage: canary, share: 100%, fallback: {{to: legacy, on: [connect]}}}}
  - {{id: said, match: {{prefix: /said}}, respond: {{status: 200, body: ours}}}}
egress:
  - {{id: bank, listener: web, callers: {{vpce: [{VPCE}]}}, to: {{host: 127.0.0.1, ports: [{origin}]}}}}
"""
    settings = f"version: 1\nlisteners:\n  - {{name: web, address: '127.0.0.1:{web}', proxy_protocol: {{from: [127.0.0.0/8]}}}}\n  - {{name: free, address: '127.0.0.1:{free}'}}\n"
    banyan = start(Banyan, text, settings, listen=False)

    def status(path, vpce=VPCE):
        return talk(web, proxy_header(vpce=vpce) + GET.replace(b"/x", path.encode())).split(b"\r\n")[0].split(b" ")[1].decode()

    assert [status(path) for path in ("/core", "/both", "/back", "/said")] == ["200", "403", "403", "200"]
    assert status("/core", "vpce-2") == "403" and status("/said", "vpce-2") == "200", "an answer of our own leads nowhere"
    causes = {cause: banyan.metric("banyan_refused_total", cause=cause) for cause in ("egress_caller", "egress_port")}
    assert causes == {"egress_caller": 1, "egress_port": 2}
    line = banyan.log_lines(where=lambda line: line.get("cause") == "egress_caller")[-1]
    assert line["client.vpce"] == "vpce-2" and line["route"] == "core" and line["http.response.status_code"] == 403
    assert curl(f"http://127.0.0.1:{free}/both")[0] == 200, "a listener without rules has its routes alone"


class Dns(Process):
    """A server of a private zone."""

    def __init__(self, folder, port, *records):
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f"--address=/{name}/{address}" if ttl is None else f"--host-record={name},{address},{ttl}" for name, address, ttl in records]
        super().__init__(["dnsmasq", "-k", "-C", "/dev/null", "-p", str(port), "-a", "127.0.0.1", "--bind-interfaces", "--no-resolv", "--no-hosts", "--pid-file=", *lines], folder, folder / "log")
        wait_for("dnsmasq", lambda: is_open(port))


def test_private_zones_have_their_own_servers_and_answers_outlive_them(start, origin):  # noqa: F811
    dns, port, moved = lease_port(), lease_port(), lease_port()
    start(Nginx, f"server {{ listen 127.0.0.1:{origin}0; }}".replace(f"{origin}0", str(moved)) + f" server {{ listen 127.0.0.9:{origin}; location / {{ return 200 moved; }} }}", port=moved)
    first = start(Dns, dns, ("core.bank.test", "127.0.0.1", 1), ("meta.bank.test", "169.254.169.254", 60))
    text = f"""version: 1
backends: {{b: {{urls: ["http://core.bank.test:{origin}"]}}}}
routes: [{{id: r, match: {{prefix: /}}, legacy: b}}]
egress:
  - {{id: meta, listener: out, callers: {{cidr: [127.0.0.0/8]}}, to: {{host: meta.bank.test, ports: [80]}}}}
  - {{id: here, listener: out, callers: {{cidr: [127.0.0.0/8]}}, to: {{host: core.bank.test, ports: [80]}}}}
"""
    web = lease_port()
    settings = f"version: 1\nresolvers: [{{zones: [bank.test], servers: ['127.0.0.1:{dns}']}}]\nlisteners: [{{name: web, address: '127.0.0.1:{web}'}}, {{name: out, address: '127.0.0.1:{port}', mode: connect}}]\n"
    banyan = start(Banyan, text, settings, listen=False)
    ask = lambda: curl(f"http://127.0.0.1:{web}/")[2].decode()  # noqa: E731
    wait_for("the name", lambda: "/" in ask())
    # Names of our own zones that lead to metadata services or to this machine are turned against us.
    for name in ("meta.bank.test", "core.bank.test"):
        assert talk(port, f"CONNECT {name}:80 HTTP/1.1\r\n\r\n".encode()).startswith(b"HTTP/1.1 403 Forbidden")
    banyan.counts(2, "banyan_refused_total", cause="egress_address")
    first.stop()
    wait_for("a question that nobody answers", lambda: "the last addresses stay" in banyan.text(), seconds=30)
    assert "/" in ask()
    # A tunnel is refused for the address it knew, not for want of an answer.
    assert talk(port, b"CONNECT meta.bank.test:80 HTTP/1.1\r\n\r\n", seconds=20).startswith(b"HTTP/1.1 403")
    start(Dns, dns, ("core.bank.test", "127.0.0.9", 1))
    wait_for("the name to move", lambda: ask() == "moved", seconds=30)
    bad = start(Banyan, "version: 1\n", "version: 1\nresolvers: [{zones: [a], servers: [ns.example.com]}]\n", wait=False)
    bad.popen.wait(20)
    assert bad.popen.returncode == 64 and "`ns.example.com` is not an address" in bad.text()


def test_the_way_out_is_explained(tmp_path):
    (tmp_path / "r.yaml").write_text(f"""version: 1
egress:
  - {{id: core, listener: onprem, callers: {{vpce: [{VPCE}], cidr: [10.64.0.0/16]}}, to: {{host: core.bank.internal, ports: [8443, 1521]}}, via: {{bind: [10.1.2.4], source_ports: 20000-29999, connections: {{max: 100}}}}}}
  - {{id: push, listener: out, callers: {{client_cert: [CN=notify]}}, to: {{domains: ["*.notify.example.net"], ports: [443], sni: required}}}}
  - {{id: keyed, listener: out, callers: {{plan: [functions]}}, to: {{domains: [api.example.net], ports: [443]}}}}
""")

    def told(*args):
        out = subprocess.run([BANYAN, "explain", "--rules", tmp_path, "CONNECT", *args, "--output", "json"], capture_output=True, text=True, timeout=20)
        assert out.returncode == 0, out.stderr
        said = json.loads(out.stdout)
        return said["rule"], said["cause"], {it["id"]: it["verdict"] for it in said["rules"]}

    core = ["core.bank.internal:8443", "--listener", "onprem", "--client-ip", "10.64.3.7"]
    assert told(*core, "--vpce", VPCE) == ("core", None, {"core": "allows"})
    assert told(*core) == (None, "egress_caller", {"core": "egress_caller"})
    assert told("core.bank.internal:22", *core[1:], "--vpce", VPCE)[1] == "egress_port"
    assert told("a.notify.example.net:443", "--listener", "out", "--client-cert", "CN=notify") == ("push", None, {"push": "allows", "keyed": "egress_destination"})
    assert told("api.example.net", "--listener", "out")[1] == "egress_key"
    assert told("api.example.net", "--listener", "out", "--plan", "functions")[0] == "keyed"
    assert told("-", "--listener", "nowhere") == (None, "egress_no_rule", {})
    text = subprocess.run([BANYAN, "explain", "--rules", tmp_path, "CONNECT", *core, "--vpce", VPCE], capture_output=True, text=True).stdout
    assert text.startswith("rule      core\nleads to  core.bank.internal:8443\n")
    for args in (["core:x", "--listener", "out"], ["core:80"]):
        assert subprocess.run([BANYAN, "explain", "--rules", tmp_path, "CONNECT", *args], capture_output=True).returncode == 64
