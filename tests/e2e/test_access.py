"""Who may do what on the admin API."""

import hashlib
import socket
import subprocess

import pytest
from conftest import BANYAN, Banyan, Nginx, lease_port, wait_for

RULES = """
version: 1
backends: {{old: {{urls: ["http://127.0.0.1:{port}"]}}, new: {{urls: ["http://127.0.0.1:{port}"]}}}}
routes: [{{id: r, match: {{prefix: /r}}, legacy: old, serverless: new, stage: ramp, ramp: {{steps: [1%, {{at: 50%, approve: 2}}, 100%]}}}}]
"""
PEOPLE = {"vera": "viewer", "olga": "operator", "otto": "operator", "anna": "admin"}


def token(name):
    return f"token-of-{name}-0123456789"


@pytest.fixture
def banyan(start, tmp_path):
    port = lease_port()
    start(Nginx, f"server {{ listen 127.0.0.1:{port}; location / {{ return 200 ok; }} }}", port=port)
    (tmp_path / "anna.token").write_text(token("anna") + "\n")
    lines = [f"  - {{name: {name}, role: {role}, " + ("file: anna.token}" if name == "anna" else f"sha256: {hashlib.sha256(token(name).encode()).hexdigest()}}}") for name, role in PEOPLE.items()]
    (tmp_path / "tokens.yaml").write_text("version: 1\ntokens:\n" + "\n".join(lines) + "\n")
    made = start(Banyan, RULES.format(port=port), f"version: 1\nadmin: {{tokens: {tmp_path / 'tokens.yaml'}}}\n")
    made.tokens = tmp_path / "tokens.yaml"
    return made


def ask(banyan, path, who=None, method="GET", body=None):
    headers = {"Authorization": f"Bearer {token(who)}"} if who in PEOPLE else {"Authorization": who} if who else {}
    return banyan.api(path, method, body, headers, check=False)[0]


def test_each_role_may_what_it_may_and_everything_else_is_refused_and_counted(banyan):
    for path in ("/livez", "/readyz", "/metrics"):
        assert ask(banyan, path) == 200, "probes and scrapes have no token"
    described = banyan.api("/api/v1/openapi.json", headers={"Authorization": f"Bearer {token('vera')}"})[1]
    reads = [path for path, item in described["paths"].items() if path.startswith("/api") and "get" in item]
    changes = [path for path, item in described["paths"].items() if "post" in item and "explain" not in path]
    assert len(reads) >= 8 and len(changes) == 4
    for path in reads:
        # Streams that end; lines of the log are for operators.
        tap = path == "/api/v1/tap"
        path = path.replace("{id}", "r") + {"/api/v1/events": "?count=1", "/api/v1/tap": "?count=0"}.get(path, "")
        assert ask(banyan, path) == ask(banyan, path, "Bearer wrong") == ask(banyan, path, "Basic abc") == 401, path
        assert all(ask(banyan, path, who) == (403 if tap and role == "viewer" else 200) for who, role in PEOPLE.items()), path
    refused = 0
    for path in changes:
        for action in ("promote", "hold", "resume", "share", "approve", "rollback", "kill", "unkill") if "{" in path else ("",):
            one = path.replace("{id}", "r").replace("{action}", action).replace("{switch}", action)
            assert ask(banyan, one, None, "POST", {}) == 401 and ask(banyan, one, "vera", "POST", {}) == 403, one
            refused += 1
    assert banyan.api("/api/v1/audit", headers={"Authorization": f"Bearer {token('vera')}"})[1]["entries"] == [], "nothing was changed"
    assert ask(banyan, "/api/v1/explain", "vera", "POST", {"url": "http://x/r"}) == 200, "to explain is to look"
    assert banyan.metric("banyan_admin_refused_total", cause="role") == refused + 1, "and a viewer's tap"
    assert banyan.metric("banyan_admin_refused_total", cause="token_unknown") == len(reads) and banyan.metric("banyan_admin_refused_total", cause="token_missing") == 2 * len(reads) + refused


def test_who_acts_is_who_the_token_says(banyan):
    post = lambda who, action, **body: banyan.api(f"/api/v1/routes/r/{action}", "POST", body, {"Authorization": f"Bearer {token(who)}"}, check=False)  # noqa: E731
    assert post("olga", "promote", actor="somebody else")[0] == 200
    # One person with many names is one person.
    assert post("olga", "approve", actor="a")[0] == 200 and post("olga", "approve", actor="b")[0] == 409 and post("otto", "approve")[0] == 200
    assert post("olga", "promote")[1]["after"]["share_ppm"] == 500_000
    kill = lambda who, path: ask(banyan, path, who, "POST", {"scope": "all"})  # noqa: E731
    assert kill("olga", "/api/v1/kill") == 200, "everybody who moves routes may stop everything"
    assert kill("otto", "/api/v1/unkill") == 403 and (banyan.state / "KILL").exists()
    assert kill("anna", "/api/v1/unkill") == 200 and not (banyan.state / "KILL").exists()
    entries = banyan.api("/api/v1/audit", headers={"Authorization": f"Bearer {token('vera')}"})[1]["entries"]
    assert [it["actor"] for it in entries] == ["olga", "olga", "otto", "olga", "olga", "anna"]
    assert "token-of" not in banyan.text()


def test_tokens_are_read_again_and_a_file_with_a_fault_changes_nothing(banyan, tmp_path):
    text = banyan.tokens.read_text()
    banyan.tokens.write_text(text.replace("name: vera, role: viewer", "name: vera, role: operator"))
    banyan.popen.send_signal(1)
    wait_for("the new role", lambda: ask(banyan, "/api/v1/routes/r/hold", "vera", "POST", {}) in (200, 409))
    banyan.tokens.write_text("version: 1\ntokens: [{name: x}]\n")
    banyan.popen.send_signal(1)
    wait_for("the fault to be told", lambda: "tokens not read" in banyan.text())
    assert ask(banyan, "/api/v1/revision", "anna") == 200
    (tmp_path / "vera").write_text(token("vera"))
    out = banyan.cli("status", "--token-file", tmp_path / "vera")
    assert out.returncode == 0 and "revision" in out.stdout
    out = banyan.cli("status")
    assert out.returncode == 1 and "401" in out.stderr
    bad = subprocess.run([BANYAN, "run", "--rules", banyan.rules, "--settings", banyan.folder / "settings.yaml", "--state", tmp_path / "other"], capture_output=True, text=True, timeout=20)
    assert bad.returncode == 64 and "admin.tokens" in bad.stderr and "tokens[0] (x)" not in bad.stdout


def test_without_tokens_changes_come_from_this_machine_only(start):
    """The address of this machine's own interface is not loopback: a request from it is one from elsewhere."""
    own = socket.gethostbyname(socket.gethostname())
    if own.startswith("127."):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))
            own = probe.getsockname()[0]
    assert not own.startswith("127."), "this test needs an address that is not loopback"
    port = lease_port()
    banyan = start(Banyan, RULES.format(port=port), args=["--admin", f"0.0.0.0:{port}"], wait=False)
    get = lambda host, *args: subprocess.run(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *args, f"http://{host}:{port}/api/v1/routes{'/r/promote' if args else ''}"], capture_output=True, text=True, timeout=20).stdout  # noqa: E731
    wait_for("the admin listener", lambda: get("127.0.0.1") == "200")
    post = ["-X", "POST", "-H", "Content-Type: application/json", "-d", "{}"]
    assert get(own) == "200" and get(own, *post) == "403" and get("127.0.0.1", *post) == "200"
    assert 'banyan_admin_refused_total{cause="remote"} 1' in subprocess.run(["curl", "-s", f"http://127.0.0.1:{port}/metrics"], capture_output=True, text=True, timeout=20).stdout
