"""Traffic that looks like production's, for a release build that is laid out by what it really does (scripts/release.sh).

    scripts/train.py BANYAN [BARE-PINGORA] [OWN-LANE]

Nothing but Python's own library: small and large answers, posts, cookies, both sides, shadows that are compared, a fallback, reloads, scrapes.
The airline of `banyan demo` answers. Ends by itself after about 20 s, and as much again for each of what the bench builds besides; an instrumented binary writes its profile
when it is stopped.
"""

import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

SECONDS, CLIENTS = 15, 8
RULES = """version: 1
defaults: {{legacy: old}}
backends:
  old: {{urls: ["http://127.0.0.1:{legacy}"], health: {{path: /healthz, interval: 2s}}}}
  new: {{urls: ["http://127.0.0.1:{serverless}"], host: catalog.lambda-url.example}}
  loyalty: {{urls: ["http://127.0.0.1:{serverless}"], host: loyalty.lambda-url.example}}
cohorts: {{user: {{key: [cookie.SESSIONID, own_cookie], allow: [header.X-Staff=true]}}}}
routes:
  - {{id: search, match: {{path: /api/flights, methods: [GET, HEAD]}}, legacy: old, serverless: new, cohort: user, effects: safe, stage: canary, share: 50%, shadow: {{sample: 100%}}}}
  - {{id: detail, match: {{path: "/api/flights/{{id}}", methods: [GET, HEAD]}}, legacy: old, serverless: new, cohort: user, effects: safe, stage: canary, share: 50%, shadow: {{sample: 100%}}}}
  - {{id: loyalty, match: {{path: "/api/loyalty/{{member}}"}}, legacy: old, serverless: loyalty, effects: safe, stage: serverless, fallback: {{to: legacy, on: [connect, timeout, 502, 503, 504]}}}}
  - {{id: download, match: {{prefix: /download}}, legacy: old, stage: legacy, response_headers: {{set: {{X-Version: "{version}"}}}}}}
  - {{id: upload, match: {{prefix: /upload}}, legacy: old, stage: legacy}}
"""


def lease(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [it.getsockname()[1] for it in sockets]
    [it.close() for it in sockets]
    return ports


def answers(port):
    """Waits for a server: what it prints comes before it listens."""
    for _ in range(500):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            time.sleep(0.02)
    raise SystemExit(f"train: nothing listens on {port}")


def besides(program, legacy, folder):
    """What of the traffic needs nothing but a proxy, through the bench's bare pingora or its own lane."""
    port, = lease(1)
    if pathlib.Path(program).name == "own-lane":
        rules = folder / "lane"
        rules.mkdir()
        (rules / "rules.yaml").write_text(
            f'version: 1\nbackends: {{u: {{urls: ["http://127.0.0.1:{legacy}"]}}}}\ncohorts: {{c: {{key: [client.ip]}}}}\n'
            "routes: [{id: r, match: {prefix: /}, legacy: u, serverless: u, cohort: c, stage: canary, share: 50%}]\n")
        args = [program, rules, folder / "lane.log", f"127.0.0.1:{port}=plain"]
    else:
        args = [program, f"127.0.0.1:{port}", f"127.0.0.1:{legacy}"]
    proxy = subprocess.Popen(args)
    try:
        end, done = time.monotonic() + SECONDS, []

        def client():
            connection, count = http.client.HTTPConnection("127.0.0.1", port, timeout=10), 0
            headers = {"User-Agent": "Mozilla/5.0 (training)", "Accept": "*/*", "Accept-Language": "en", "Accept-Encoding": "gzip", "Cookie": "theme=dark"}
            while time.monotonic() < end:
                count += 1
                if count % 10 < 8:
                    connection.request("GET", "/download/1024", headers=headers)
                elif count % 10 == 8:
                    connection.request("PUT", "/upload", body=b"x" * 4096, headers=headers)
                else:
                    connection.request("GET", "/download/65536", headers=headers)
                connection.getresponse().read()
            done.append(count)

        answers(port)
        threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
        [it.start() for it in threads]
        [it.join() for it in threads]
        if len(done) != CLIENTS:
            raise SystemExit(f"train: a client of {program} has failed")
    finally:
        proxy.send_signal(signal.SIGTERM)
        proxy.wait(60)


def main(banyan, *more):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="banyan-train-"))
    port, admin, *demo = lease(4)
    # Its own profile would be that of the airline.
    own = {**os.environ, "LLVM_PROFILE_FILE": "/dev/null"}
    airline = subprocess.Popen([banyan, "demo", "--no-traffic", "--listen", f"127.0.0.1:{demo[0]}", "--admin", f"127.0.0.1:{demo[1]}"], stdout=subprocess.PIPE, text=True, env=own)
    legacy, serverless = re.findall(r"http://127.0.0.1:(\d+)", airline.stdout.readline())[:2]
    for side in (legacy, serverless):
        answers(int(side))
    rules = folder / "rules"
    rules.mkdir()

    def write(version):
        (folder / "new").write_text(RULES.format(legacy=legacy, serverless=serverless, version=version))
        (folder / "new").rename(rules / "rules.yaml")

    write(0)
    (folder / "settings.yaml").write_text(f"version: 1\nthreads: 1\nattribution_header: true\nlogs: {{access: {folder}/access.log}}\n")
    proxy = subprocess.Popen([banyan, "run", "--rules", rules, "--settings", folder / "settings.yaml", "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}", "--state", folder / "state"], stdout=subprocess.DEVNULL)
    try:
        for _ in range(500):
            try:
                connection = http.client.HTTPConnection("127.0.0.1", admin, timeout=5)
                connection.request("GET", "/readyz")
                if connection.getresponse().status == 200:
                    break
            except OSError:
                time.sleep(0.02)
        else:
            raise SystemExit("train: the proxy does not become ready")
        end, done = time.monotonic() + SECONDS, []

        def client(number):
            connection, count = http.client.HTTPConnection("127.0.0.1", port, timeout=10), 0
            headers = {"User-Agent": "Mozilla/5.0 (training)", "Accept": "*/*", "Accept-Language": "en", "Accept-Encoding": "gzip"}
            while time.monotonic() < end:
                count += 1
                own = {**headers, "Cookie": f"theme=dark; SESSIONID=u{number}-{count % 500}"}
                kind = count % 10
                if kind < 4:
                    connection.request("GET", "/download/1024", headers=own)
                elif kind < 6:
                    connection.request("GET", f"/api/flights/BA{count % 80:03}?from=ICN", headers=own)
                elif kind == 6:
                    connection.request("GET", "/api/flights?from=ICN&to=NRT", headers=own)
                elif kind == 7:
                    connection.request("GET", f"/api/loyalty/m{count % 97}", headers=own)
                elif kind == 8:
                    connection.request("PUT", "/upload", body=b"x" * 4096, headers={**own, "Content-Type": "application/octet-stream"})
                else:
                    connection.request("GET", "/download/65536", headers=own)
                answer = connection.getresponse()
                answer.read()
                if answer.status >= 500:
                    raise RuntimeError(f"{answer.status} for {kind}: {dict(answer.headers)}")
            done.append(count)

        threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
        [it.start() for it in threads]
        version = 0
        while any(it.is_alive() for it in threads):
            version += 1
            write(version)
            connection = http.client.HTTPConnection("127.0.0.1", admin, timeout=10)
            for path in ("/metrics", "/api/v1/routes"):
                connection.request("GET", path)
                connection.getresponse().read()
            time.sleep(1)
        if len(done) != CLIENTS:
            raise SystemExit("train: a client has failed")
        print(json.dumps({"requests": sum(done), "reloads": version}))
        for program in more:
            besides(program, legacy, folder)
    finally:
        proxy.send_signal(signal.SIGTERM)
        proxy.wait(60)
        airline.kill()
        airline.wait(10)


main(*sys.argv[1:])
