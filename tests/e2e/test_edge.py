"""The edge as tools see it that we did not write: websockets by kosoku (Autobahn's cases), TLS by sslyze, the admin API by schemathesis."""

import asyncio
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading

import pytest
from conftest import Banyan, lease_port, wait_for
from test_protocols import one_backend

BIN = pathlib.Path(sys.executable).parent

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
HANDSHAKE = b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"


def eager(server):
    """Answers before it is asked, then echoes one frame."""

    def serve(client):
        with client:
            data = b""
            while len(data.partition(b"\r\n\r\n")[2]) < 11:
                chunk = client.recv(4096)
                if not chunk:
                    return
                data += chunk
            client.sendall(b"\x81\x05" + data.partition(b"\r\n\r\n")[2][6:11])
            client.recv(100)

    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        client.sendall(SWITCH)
        threading.Thread(target=serve, args=(client,), daemon=True).start()


def test_a_websocket_stays_open_however_soon_the_backend_answers(start):
    with socket.create_server(("127.0.0.1", 0), backlog=512) as server:
        threading.Thread(target=eager, args=(server,), daemon=True).start()
        banyan = start(Banyan, one_backend(f"http://127.0.0.1:{server.getsockname()[1]}"), settings="version: 1\nthreads: 1\n")

        async def one():
            reader, writer = await asyncio.open_connection("127.0.0.1", banyan.port)
            try:
                writer.write(HANDSHAKE)
                assert b" 101 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
                writer.write(b"\x81\x85\0\0\0\0Hello")
                return await asyncio.wait_for(reader.readexactly(7), 10) == b"\x81\x05Hello"
            except asyncio.IncompleteReadError:
                return False
            finally:
                writer.close()

        async def many():
            return sum([sum(await asyncio.gather(*[one() for _ in range(16)])) for _ in range(60)])

        assert asyncio.run(many()) == 960


ECHO = """
import asyncio, sys, websockets.asyncio.server as s
async def echo(c):
    async for m in c: await c.send(m)
async def main():
    async with s.serve(echo, "127.0.0.1", int(sys.argv[1]), max_size=None, ping_interval=None, close_timeout=5) as srv: await srv.serve_forever()
asyncio.run(main())
"""

COMPARE = """
import asyncio, json, os, sys
from kosoku import run_fuzzingclient, FailureError
async def run(url, cases, without):
    try: found = await run_fuzzingclient(url, cases, without, 1)
    except FailureError as failure: found = failure.results
    soft = ("OK", "NON-STRICT")
    return {r.case_id: ("ok" if r.behavior.value in soft else r.behavior.value, r.behavior_close.value, r.remote_close_code, r.remote_close_reason, r.was_clean) for r in found}
async def main(direct, proxied, *cases):
    a, b = [await run(url, list(cases) or None, None if cases else ["12.*", "13.*"]) for url in (direct, proxied)]
    print(json.dumps({"cases": len(a), "differing": {k: (a.get(k), b.get(k)) for k in a.keys() | b.keys() if a.get(k) != b.get(k)}}), flush=True)
    os._exit(0)
asyncio.run(main(*sys.argv[1:]))
"""

# Of the 216 cases of compression, which take ten minutes for both sides, one of each kind; `BANYAN_KOSOKU=all` runs them all.
COMPRESSED = [f"12.{n}.1" for n in range(1, 6)] + [f"13.{n}.1" for n in range(1, 8)]


def test_every_case_of_autobahn_is_the_same_through_the_proxy(start, tmp_path):
    (tmp_path / "echo.py").write_text(ECHO)
    (tmp_path / "compare.py").write_text(COMPARE)
    port = lease_port()
    env = {**os.environ, "WEBSOCKETS_MAX_FRAGMENTS": "100000"}
    echo = subprocess.Popen([sys.executable, tmp_path / "echo.py", str(port)], stderr=subprocess.DEVNULL, env=env)
    try:
        wait_for("the echo", lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        banyan = start(Banyan, one_backend(f"http://127.0.0.1:{port}"))
        compressed = [["12.*", "13.*"]] if os.environ.get("BANYAN_KOSOKU") == "all" else [COMPRESSED]
        counts = []
        for cases in [[], *compressed]:
            out = subprocess.run([sys.executable, tmp_path / "compare.py", f"ws://127.0.0.1:{port}", f"ws://127.0.0.1:{banyan.port}", *cases], capture_output=True, text=True, timeout=1500, cwd=tmp_path)
            lines = [line for line in out.stdout.splitlines() if line.startswith('{"cases"')]
            assert lines, out.stdout[-2000:] + out.stderr[-2000:]
            found = json.loads(lines[-1])
            assert found["differing"] == {}, found
            counts.append(found["cases"])
        assert counts[0] == 301 and counts[1] >= len(COMPRESSED), counts
        print(counts, "cases are the same")
    finally:
        echo.kill()
        echo.wait()


def certificates(folder):
    """An authority, an authority below it, and a leaf for localhost, as a bank would have them."""
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]

    def openssl(*args):
        subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)

    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-days", "30", "-subj", "/CN=Test CA", "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    for name, subject in [("int", "/CN=Issuing CA"), ("leaf", "/CN=localhost")]:
        openssl("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", subject)
    (folder / "int.ext").write_text("basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")
    (folder / "leaf.ext").write_text("basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\nsubjectAltName=DNS:localhost,DNS:*.shop.test,IP:127.0.0.1\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")
    openssl("x509", "-req", "-in", "int.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", "int.pem", "-days", "30", "-extfile", "int.ext")
    openssl("x509", "-req", "-in", "leaf.csr", "-CA", "int.pem", "-CAkey", "int.key", "-CAcreateserial", "-out", "leaf.pem", "-days", "30", "-extfile", "leaf.ext")
    (folder / "chain.pem").write_text((folder / "leaf.pem").read_text() + (folder / "int.pem").read_text())
    return folder


def tls_settings(folder, port):
    return f'version: 1\nlisteners: [{{name: tls, address: "127.0.0.1:{port}", tls: {{cert: {folder}/chain.pem, key: {folder}/leaf.key}}, h2: true}}]\n'


def test_sslyze_finds_nothing_of_medium_or_worse(start, tmp_path):
    folder, port = certificates(tmp_path), lease_port()
    start(Banyan, one_backend("http://127.0.0.1:1"), settings=tls_settings(folder, port), listen=False)
    out = subprocess.run([BIN / "sslyze", "--mozilla_config", "intermediate", "--certinfo_ca_file", "ca.pem", "--json_out", "out.json", f"localhost:{port}"], cwd=folder, capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stdout[-3000:]
    scan = json.loads((folder / "out.json").read_text())["server_scan_results"][0]
    assert scan["scan_status"] == "COMPLETED", scan["connectivity_error_trace"]
    result = scan["scan_result"]
    assert not [name for name, of in result.items() if of["status"] not in ("COMPLETED", "NOT_SCHEDULED")]

    def of(name):
        return result[name]["result"]

    for old in ["ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"]:
        assert of(f"{old}_cipher_suites")["accepted_cipher_suites"] == [], old
    suites = {it["cipher_suite"]["name"] for version in ["tls_1_2", "tls_1_3"] for it in of(f"{version}_cipher_suites")["accepted_cipher_suites"]}
    assert suites and all(re.match(r"TLS_(ECDHE|AES|CHACHA20)_.*(GCM|CHACHA20|POLY1305)", name) for name in suites), suites
    for scan, field, wanted in [
        ("tls_compression", "supports_compression", False), ("openssl_ccs_injection", "is_vulnerable_to_ccs_injection", False), ("tls_fallback_scsv", "supports_fallback_scsv", True), ("heartbleed", "is_vulnerable_to_heartbleed", False),
        ("session_renegotiation", "supports_secure_renegotiation", True), ("session_renegotiation", "is_vulnerable_to_client_renegotiation_dos", False), ("tls_extended_master_secret", "supports_ems_extension", True),
    ]:
        assert of(scan)[field] is wanted, (scan, field)
    assert of("robot")["robot_result"].startswith("NOT_VULNERABLE")
    for deployment in of("certificate_info")["certificate_deployments"]:
        assert any(it["was_validation_successful"] for it in deployment["path_validation_results"]) and deployment["received_chain_has_valid_order"]


CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,negative_data_rejection,ignored_auth,unsupported_method,allow_header_conformance"


@pytest.mark.parametrize("role", [None, "viewer", "operator", "admin"])
def test_schemathesis_finds_no_fault_in_the_admin_api(start, tmp_path, role):
    import hashlib

    roles = ["viewer", "operator", "admin"]
    entries = "".join(f"  - {{name: {it}, role: {it}, sha256: {hashlib.sha256(f'token-of-{it}-0123456789'.encode()).hexdigest()}}}\n" for it in roles)
    (tmp_path / "tokens.yaml").write_text(f"version: 1\ntokens:\n{entries}")
    rules = 'version: 1\nbackends: {b: {urls: ["http://127.0.0.1:1"]}, c: {urls: ["http://127.0.0.1:2"]}}\nroutes: [{id: r, match: {prefix: /}, legacy: b, serverless: c, stage: ramp, ramp: {steps: [1%, 100%]}}]\n'
    banyan = start(Banyan, rules, settings=f"version: 1\nadmin: {{tokens: {tmp_path}/tokens.yaml}}\n")
    bearer = {it: {"Authorization": f"Bearer token-of-{it}-0123456789"} for it in roles}
    document = banyan.api("/api/v1/openapi.json", headers=bearer["viewer"])[1]
    # The description leaves tokens open, because a process without any has none; this one has.
    document["security"] = [{"token": []}]
    for path in ["/livez", "/readyz", "/metrics"]:
        document["paths"][path]["get"]["security"] = []
    # Streams end when their reader does.
    del document["paths"]["/api/v1/events"], document["paths"]["/api/v1/tap"]
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    (tmp_path / "schemathesis.toml").write_text('[parameters]\n"path.id" = "r"\n')
    token = ["-H", f"Authorization: {bearer[role]['Authorization']}"] if role else []
    command = [BIN / "schemathesis", "run", "openapi.json", "--url", f"http://127.0.0.1:{banyan.admin}", *token, "--generation-deterministic", "-n", "25", "--request-timeout", "5", "--continue-on-failure", "--no-color", "--checks", CHECKS]
    out = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert out.returncode == 0, out.stdout[-6000:]
    audit = banyan.api("/api/v1/audit", headers=bearer["viewer"])[1]
    assert audit["verified"] is True and "panicked" not in banyan.text()
    if role in (None, "viewer"):
        assert audit["entries"] == [] and not list(banyan.state.glob("KILL*")), "an unauthorised change"
