"""The same proxies on other work than answering a GET over a resting connection: bodies that go up, TLS, HTTP/2, a fixed rate, connections that rest.

Everything is set up like the peers of `peers.py`, with a listener more each: TLS (one certificate, sessions may be resumed) and HTTP/2 without TLS.
"""

import os
import re
import socket
import ssl
import statistics
import subprocess
import time

from peers import LOAD_CORE, PEERS, banyan, bare, interleaved, ratios, show, upstream

RATE, CLIENTS = 4000, 32


def certificate(folder):
    """A key and a certificate of its own for localhost, in the form that each of the proxies reads."""
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost", "-keyout", folder / "tls.key", "-out", folder / "tls.crt"], check=True, capture_output=True)
    (folder / "tls.pem").write_bytes((folder / "tls.crt").read_bytes() + (folder / "tls.key").read_bytes())
    return folder / "tls"


def started(folder, up, **more):
    """Every peer and the framework alone, by name."""
    running = {}
    for name, make in {**PEERS, "bare": bare}.items():
        sub = folder / name
        sub.mkdir(exist_ok=True)
        running[name] = make(sub, up, 10, **more)[0]
    return running


def post(folder, args, report):
    """4 KiB up, 1 KiB down."""
    up = upstream(folder)
    script = folder / "post.lua"
    script.write_text('wrk.method = "POST"\nwrk.body = string.rep("b", 4096)\nwrk.headers["Content-Type"] = "application/octet-stream"\n')
    running = started(folder, up.port)
    try:
        for it in running.values():
            it.script = script
        title = "POST of 4 KiB, keep-alive, saturated, 32 connections"
        table = ratios(interleaved({name: (it, "/post") for name, it in running.items()}, args.rounds, args.secs, 32), "nginx")
        show(title, table)
        report[title] = table
    finally:
        [it.stop() for it in (*running.values(), up)]


def handshakes(running, secs):
    """One connection after the other, each with one request, by a client that resumes; CPU of the proxy for each."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    # With 1.2 a session is there when the handshake is; with 1.3 it comes with the answer, and this client has read it by then.
    session, made, resumed = None, 0, 0
    os.sched_setaffinity(0, {int(LOAD_CORE)})
    try:
        before, end = running.cpu_ns(), time.monotonic() + secs
        while time.monotonic() < end:
            with socket.create_connection(("127.0.0.1", running.tls_port)) as raw, context.wrap_socket(raw, server_hostname="localhost", session=session) as tls:
                tls.sendall(b"GET /1k HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                answer = b""
                while part := tls.recv(65536):
                    answer += part
                assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"a" * 1024), (running.name, answer[:80])
                made, resumed, session = made + 1, resumed + tls.session_reused, tls.session
        return {"cpu_us": (running.cpu_ns() - before) / 1000 / made, "resumed": resumed / made}
    finally:
        os.sched_setaffinity(0, range(os.cpu_count()))


def tls(folder, args, report):
    files = certificate(folder)
    up = upstream(folder)
    running = started(folder, up.port, tls=files)
    try:
        rows = {name: [] for name in running}
        for it in running.values():
            handshakes(it, 0.5)
        for _ in range(args.rounds):
            for name, it in running.items():
                rows[name].append(handshakes(it, args.secs))
        title = "TLS, a connection for each request, resumed"
        table = {name: {"cpu_us": round(statistics.median(row["cpu_us"] for row in all_rows), 1),
                        "ratio": round(statistics.median(row["cpu_us"] / base["cpu_us"] for row, base in zip(all_rows, rows["nginx"])), 3),
                        "resumed": round(statistics.median(row["resumed"] for row in all_rows), 3)} for name, all_rows in rows.items()}
        print(f"\n{title}\n{'':14}{'CPU us/conn':>12}{'ratio':>8}{'resumed':>10}")
        for name, row in table.items():
            print(f"{name:14}{row['cpu_us']:>12.1f}{row['ratio']:>8.2f}{row['resumed']:>10.0%}", flush=True)
        report[title] = table
    finally:
        [it.stop() for it in (*running.values(), up)]


def h2load(running, port, more, requests):
    """Requests by h2load, and what a request cost the proxy."""
    before = running.cpu_ns()
    text = subprocess.run(["taskset", "-c", LOAD_CORE, "h2load", "-t1", f"-n{requests}", *more, f"http://127.0.0.1:{port}/1k"], capture_output=True, text=True).stdout
    cpu = running.cpu_ns() - before
    if f"{requests} succeeded" not in text:
        raise SystemExit(f"{running.name}: {text}")
    rps = float(re.search(r"finished in [\d.]+m?s, ([\d.]+) req/s", text).group(1))
    return {"cpu_us": cpu / 1000 / requests, "rps": rps}


def small_table(title, rows, report):
    table = {}
    for name, all_rows in rows.items():
        pairs = [row["cpu_us"] / base["cpu_us"] for row, base in zip(all_rows, rows["nginx"])]
        table[name] = {figure: round(statistics.median(row[figure] for row in all_rows), 2) for figure in all_rows[0]}
        table[name] |= {"ratio": round(statistics.median(pairs), 3), "low": round(min(pairs), 3), "high": round(max(pairs), 3)}
    figures = [figure for figure in next(iter(table.values())) if figure not in ("ratio", "low", "high")]
    print(f"\n{title}\n{'':14}" + "".join(f"{figure:>12}" for figure in figures) + f"{'ratio':>8}{'spread':>14}")
    for name, row in table.items():
        spread = f"{row['low']:.2f}-{row['high']:.2f}"
        print(f"{name:14}" + "".join(f"{row[figure]:>12.1f}" for figure in figures) + f"{row['ratio']:>8.2f}{spread:>14}", flush=True)
    report[title] = table


def h2(folder, args, report):
    """HTTP/2 from the client, HTTP/1.1 to the upstream: 8 connections of 8 streams."""
    up = upstream(folder)
    running = started(folder, up.port, h2=True)
    try:
        rows = {name: [] for name in running}
        for number in range(args.rounds + 1):
            for name, it in running.items():
                row = h2load(it, it.h2_port, ["-c8", "-m8"], 2_000 if number == 0 else args.secs * 8_000)
                if number:
                    rows[name].append(row)
        small_table("HTTP/2 to HTTP/1.1, 8 connections of 8 streams, saturated", rows, report)
    finally:
        [it.stop() for it in (*running.values(), up)]


def rate(folder, args, report):
    """As much as arrives, not as much as goes: what a request costs, and its p99, at a rate that all of them serve."""
    up = upstream(folder)
    running = started(folder, up.port)
    try:
        rows = {name: [] for name in running}
        for number in range(args.rounds + 1):
            for name, it in running.items():
                log = folder / "h2load.log"
                log.unlink(missing_ok=True)
                row = h2load(it, it.port, ["--h1", f"-c{CLIENTS}", f"--rps={RATE // CLIENTS}", f"--log-file={log}"], RATE * args.secs)
                times = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines())
                if number:
                    rows[name].append({"cpu_us": row["cpu_us"], "p50_us": times[len(times) // 2], "p99_us": times[len(times) * 99 // 100]})
        small_table(f"{RATE} requests of 1 KiB a second on {CLIENTS} connections", rows, report)
    finally:
        [it.stop() for it in (*running.values(), up)]


def resting(folder, args, report):
    """Memory of a connection that rests after a request, and of one whose head does not end: 2,000 of each, in bytes of RSS each."""
    number = 2_000
    up = upstream(folder)
    running = started(folder, up.port)
    table = {}
    try:
        for name, it in running.items():
            row = {}
            for kind, sent, answered in [("idle", b"GET /1k HTTP/1.1\r\nHost: h\r\n\r\n", True), ("slow", b"GET /1k HTTP/1.1\r\nHost: h\r\nX-Slow: ", False)]:
                before, sockets = it.rss_mib(), []
                for _ in range(number):
                    client = socket.create_connection(("127.0.0.1", it.port))
                    client.sendall(sent)
                    if answered:
                        got = b""
                        while not got.endswith(b"a" * 1024):
                            got += client.recv(65536)
                    sockets.append(client)
                time.sleep(1)
                row[f"{kind}_bytes"] = round((it.rss_mib() - before) * 1024 * 1024 / number)
                [client.close() for client in sockets]
                time.sleep(1)
            table[name] = row
    finally:
        [it.stop() for it in (*running.values(), up)]
    title = f"memory of a connection, of {number}"
    print(f"\n{title}\n{'':14}{'resting':>10}{'slow head':>12}")
    for name, row in table.items():
        print(f"{name:14}{row['idle_bytes']:>10,}{row['slow_bytes']:>12,}", flush=True)
    report[title] = table


def threads(folder, args, report):
    """Two threads against one. Needs cores of its own for the load: four, or nothing is measured."""
    cores = os.cpu_count() or 1
    title = "1 and 2 threads"
    if cores < 4:
        report[title] = f"not measured: {cores} cores, and the load needs two of them"
        print(f"\n{title}: {report[title]}", flush=True)
        return
    up = upstream(folder)
    running = {}
    try:
        for count in (1, 2):
            sub = folder / str(count)
            sub.mkdir()
            running[str(count)] = banyan(sub, up.port, 10, threads=count, core=",".join(map(str, range(2, 2 + count))))[0]
        table = ratios(interleaved({name: (it, "/1k") for name, it in running.items()}, args.rounds, args.secs, 64), "1")
        show(title, table)
        report[title] = table
    finally:
        [it.stop() for it in (*running.values(), up)]
