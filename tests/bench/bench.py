"""Banyan beside nginx, HAProxy and Envoy on the same work, in the same run.

Each proxy has one worker pinned to core 0; the load generator (wrk) and the upstream (nginx) share core 1. Rounds are interleaved, so that a noisy
machine disturbs all of them alike; what is printed is the median over rounds of each round's ratio to nginx in that round, with its spread. CPU per
request comes from the kernel's run time of the proxy's own threads, which saturation and scheduling do not change much.

    make bench                                   everything; with --secs 2 --reloads 8 it took 41 minutes on two cores, and the builds before it 23
    make bench BENCH_ARGS="--rounds 3 --secs 2 --works plain"
Works: plain (1 KiB and 64 KiB keep-alive; Banyan with all that is on by default, its access log in a file), post (4 KiB up), tls (a connection for each request, resumed), h2
(to HTTP/1.1), rate (as much as arrives), observed (metrics, log and trace headers against none of them), counts (instructions, allocations and system calls), lane (a prototype, docs/own-lane.md), routes (10, 10,000 and 100,000),
reload (10 and 10,000 routes, under load), load (100,000 routes), resting (memory of connections), threads (1 and 2), functions (calls of a Lambda function, beside Envoy's
aws_lambda filter), mirror (every request copied to a fast, a late, a slow and a dead shadow, beside nginx's and Envoy's mirrors), isolation (p99 and CPU with a slow and a dead shadow and without), compare (how many answers one core compares), tunnels
(TCP with PROXY headers, and resting connections, beside HAProxy).
"""

import argparse
import base64
import http.client
import io
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request
import zipfile

from counts import counts
from mirror import compare, isolation, mirror, mirror_claims
from peers import BANYAN, LOAD_CORE, PEERS, PROXY_CORE, ROOT, VENV, Running, banyan, bare, interleaved, lane, lease, nginx, ratios, show, upstream, wrk
from protocols import h2, post, rate, resting, threads, tls
from tunnels import tunnels


def plain(folder, args, report):
    up = upstream(folder)
    running = [make(folder, up.port, 10)[0] for name, make in PEERS.items() if name != "banyan"]
    running += [bare(folder, up.port, 10)[0], banyan(folder, up.port, 10, log="file")[0]]
    try:
        for path, title in [("/1k", "1 KiB, keep-alive, saturated, 32 connections"), ("/64k", "64 KiB, keep-alive, saturated, 32 connections")]:
            table = ratios(interleaved({r.name: (r, path) for r in running}, args.rounds, args.secs, 32), "nginx")
            show(title, table)
            report[title] = table
    finally:
        [r.stop() for r in (*running, up)]


def own_lane(folder, args, report):
    """The prototype of docs/own-lane.md between the framework alone and the product, both with all that is on by default."""
    up = upstream(folder)
    make = {"nginx": nginx, "bare": bare, "banyan": lambda *it: banyan(*it, log="file"), "lane": lane}
    running = {}
    try:
        for name, start in make.items():
            (folder / name).mkdir()
            running[name] = start(folder / name, up.port, 10)[0]
        for path, size in [("/1k", "1 KiB"), ("/64k", "64 KiB")]:
            title = f"own lane: {size}"
            table = ratios(interleaved({name: (it, path) for name, it in running.items()}, args.rounds, args.secs, 32), "nginx")
            show(title, table)
            report[title] = table
    finally:
        [it.stop() for it in (*running.values(), up)]


def routes(folder, args, report):
    """The last of N routes against the last of 10, each proxy against itself."""
    up = upstream(folder)
    for name, counts in {"banyan": [10, 10_000, 100_000], "nginx": [10, 10_000]}.items():
        running = {}
        try:
            for count in counts:
                sub = folder / f"{name}-{count}"
                sub.mkdir()
                running[str(count)] = PEERS[name](sub, up.port, count)[0]
            cells = {count: (r, f"/svc{int(count) - 1}/x") for count, r in running.items()}
            table = ratios(interleaved(cells, args.rounds, args.secs, 32), "10")
            title = f"{name}: more routes against 10"
            show(title, table)
            report[title] = table
        finally:
            [r.stop() for r in running.values()]
    up.stop()


def observed(folder, args, report):
    """What it costs to see: metrics, access log to a file and trace headers, against a process that does none of it."""
    up = upstream(folder)
    kinds = {"unobserved": {"env": {"BANYAN_BENCH_UNOBSERVED": "1"}}, "observed": {"log": "file"}}
    running = {}
    for name, kind in kinds.items():
        (folder / name).mkdir()
        running[name] = banyan(folder / name, up.port, 10, **kind)[0]
    try:
        for path, size in [("/1k", "1 KiB"), ("/64k", "64 KiB")]:
            title = f"observed: metrics, access log to a file and trace headers, {size}"
            table = ratios(interleaved({name: (it, path) for name, it in running.items()}, args.rounds * 2, args.secs, 32), "unobserved")
            show(title, table)
            report[title] = table
        lines = (folder / "observed/access.log").read_text().count("\n")
        assert lines > 10_000 and not (folder / "unobserved/access.log").exists()
    finally:
        [it.stop() for it in (*running.values(), up)]


class Prober(threading.Thread):
    """Asks without pause on one connection, and notes when each version of the rules is first seen; connects again when closed."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.seen, self.lost, self.failed, self.running, self.count = port, {}, 0, 0, True, 0

    def run(self):
        connection = None
        while self.running:
            try:
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
                    connection.connect()
                    connection.auto_open = 0
                connection.request("GET", "/1k")
                answer = connection.getresponse()
                answer.read()
                self.count += 1
                self.failed += answer.status != 200
                self.seen.setdefault(answer.headers.get("x-rule"), time.monotonic())
                if answer.will_close:
                    raise ConnectionError
            except (OSError, http.client.HTTPException):
                self.lost += 1
                connection = None


def reload(folder, args, report):
    up = upstream(folder)
    for count in [10, 10_000]:
        for name, make in PEERS.items():
            sub = folder / f"reload-{name}-{count}"
            sub.mkdir()
            running, write = make(sub, up.port, count)
            prober = Prober(running.port)
            load = subprocess.Popen(["taskset", "-c", LOAD_CORE, "wrk", "-t1", "-c8", "-d3600s", f"http://127.0.0.1:{running.port}/1k"], stdout=subprocess.PIPE, text=True)
            took = []
            try:
                prober.start()
                time.sleep(1)
                for version in range(1, args.reloads + 1):
                    begin = time.monotonic()
                    write(version)
                    written = time.monotonic()
                    while str(version) not in prober.seen and time.monotonic() < begin + 20:
                        time.sleep(0.001)
                    if str(version) in prober.seen:
                        # From the moment the file is complete; writing it is the test's own work.
                        took.append((prober.seen[str(version)] - written) * 1000)
                    time.sleep(0.3)
            finally:
                prober.running = False
                prober.join(20)
                load.send_signal(signal.SIGINT)
                wrk_text = load.communicate()[0]
                running.stop()
            errors = re.search(r"Socket errors: (.*)", wrk_text)
            row = {
                "apply_ms_median": round(statistics.median(took), 1), "apply_ms_max": round(max(took), 1), "seen": len(took),
                "prober_connections_lost": prober.lost, "prober_failed": prober.failed, "wrk_errors": errors.group(1) if errors else "none",
            }
            title = f"reload under load, {count} routes, {args.reloads} reloads: {name}"
            print(f"{title}: {row}", flush=True)
            report[title] = row
    disturbed(folder, args, report, up)
    up.stop()


def disturbed(folder, args, report, up):
    """p99 of two seconds with one reload of 10,000 routes in them beside that of two without. The file is complete before, so that nothing but the reload differs."""
    for name, make in PEERS.items():
        sub = folder / f"disturbed-{name}"
        sub.mkdir()
        running, write = make(sub, up.port, 10_000)
        # Others close connections that are in use.
        running.may_fail = name != "banyan"
        results = {"without": [], "with": []}
        try:
            wrk(running, "/1k", 1, 8)
            for version in range(1, args.rounds * 3 + 1):
                for kind, rows in results.items():
                    if kind == "with":
                        write.prepare(version)
                    timer = threading.Timer(0.7, write.apply if kind == "with" else lambda: None)
                    timer.start()
                    rows.append(wrk(running, "/1k", 2, 8))
                    timer.join()
        finally:
            running.stop()
        it = ratios(results, "without")["with"]["p99_us"]
        title = f"reload under load, 10,000 routes, p99 with one to none: {name}"
        row = {"p99_us": it["median"], "p99_to_none": it["ratio"], "spread": [it["low"], it["high"]]}
        print(f"{title}: {row}", flush=True)
        report[title] = row


def load(folder, args, report):
    """100,000 routes: time of `check`, time from start to the first answer, memory at its peak and once the allocator has given back what it does not need."""
    up = upstream(folder)
    begin = time.monotonic()
    running, _ = banyan(folder, up.port, 100_000)
    # Its sockets are open before it has read its rules.
    with urllib.request.urlopen(f"http://127.0.0.1:{running.port}/svc99999/1k", timeout=60) as answer:
        assert len(answer.read()) == 1024
    ready = time.monotonic() - begin
    begin = time.monotonic()
    subprocess.run([BANYAN, "check", folder / "rules"], check=True, stdout=subprocess.DEVNULL)
    checked = time.monotonic() - begin
    time.sleep(GIVEN_BACK_S)
    peak = sum(int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) for pid in running.pids()) / 1024
    row = {"check_s": round(checked, 2), "write_start_and_answer_s": round(ready, 2), "rss_mib": round(running.rss_mib()), "peak_mib": round(peak)}
    print(f"\n100,000 routes: {row}", flush=True)
    report["100,000 routes"] = row
    running.stop()
    up.stop()


# jemalloc gives pages back ten seconds after they were freed.
GIVEN_BACK_S = 15
DEBOUNCE_MS = 15  # QUIET_DONE in proxy/src/control.rs


REGION = "eu-west-1"
# Answers both shapes: Envoy has field names of its own.
FUNCTION = '''
def handler(event, context):
    print("called")
    return {"statusCode": 200, "status_code": 200, "headers": {"content-type": "text/plain"}, "body": "a" * 1024}
'''
KEY = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}


def emulator(folder):
    """ministack with one function, on the load's core."""
    port = lease()
    settings = {
        "TMPDIR": folder, "HOME": folder, "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": port, "MINISTACK_REGION": REGION, "LOG_LEVEL": "ERROR", "PERSIST_STATE": "0",
        "IOT_MTLS_ENABLED": "0", "SFTP_ENABLED": "0", "DOCKER_HOST": "unix:///nonexistent.sock", "STATE_DIR": folder / "s", "S3_DATA_DIR": folder / "s3",
    }
    running = Running("emulator", [VENV / "bin/ministack"], port, LOAD_CORE, folder, {name: str(value) for name, value in settings.items()})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("index.py", FUNCTION)
    body = {"FunctionName": "echo", "Runtime": "python3.12", "Role": "arn:aws:iam::000000000000:role/r", "Handler": "index.handler", "Timeout": 10,
            "Code": {"ZipFile": base64.b64encode(buffer.getvalue()).decode()}}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/2015-03-31/functions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 201
    return running


def canned(folder):
    """The Invoke API answered by nginx with one fixed payload: fast enough to saturate what stands before it."""
    port = lease()
    payload = json.dumps({"statusCode": 200, "status_code": 200, "headers": {"content-type": "text/plain"}, "body": "a" * 1024})
    temp = "".join(f"{kind}_temp_path {folder}/c-{kind};" for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "canned.conf").write_text(
        f"{user} daemon off; worker_processes 1; pid {folder}/c.pid; error_log {folder}/c.err; events {{ worker_connections 16384; }}\n"
        f"http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s; {temp} default_type application/json;\n"
        f"server {{ listen 127.0.0.1:{port} backlog=8192; location / {{ return 200 '{payload}'; }} }} }}\n")
    return Running("canned", ["nginx", "-c", folder / "canned.conf"], port, LOAD_CORE, folder)


def banyan_functions(folder, api):
    port, admin = lease(), lease()
    (folder / "frules").mkdir()
    (folder / "frules/r.yaml").write_text(
        f'version: 1\nbackends: {{f: {{lambda: {{function: echo, region: {REGION}, endpoint: "http://127.0.0.1:{api}"}}}}}}\n'
        "routes: [{id: f, match: {prefix: /}, serverless: f, stage: serverless}]\n")
    (folder / "fsettings.yaml").write_text("version: 1\nthreads: 1\nlogs: {access: off}\n")
    args = [BANYAN, "run", "--rules", folder / "frules", "--settings", folder / "fsettings.yaml", "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}", "--state", folder / "fstate"]
    return Running("banyan", args, port, PROXY_CORE, folder, KEY)


def envoy_functions(folder, api):
    port = lease()
    kind = "type.googleapis.com/envoy.extensions.filters"
    address = lambda p: {"socket_address": {"address": "127.0.0.1", "port_value": p}}
    manager = {
        "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "h", "codec_type": "HTTP1", "generate_request_id": False,
        "http_filters": [
            {"name": "envoy.filters.http.aws_lambda", "typed_config": {"@type": f"{kind}.http.aws_lambda.v3.Config", "arn": f"arn:aws:lambda:{REGION}:000000000000:function:echo", "invocation_mode": "SYNCHRONOUS"}},
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{kind}.http.router.v3.Router", "suppress_envoy_headers": True}},
        ],
        "route_config": {"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "u"}}]}]},
    }
    config = {"node": {"id": "n", "cluster": "c"}, "static_resources": {
        "listeners": [{"name": "l", "address": address(port), "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}]}],
        "clusters": [{
            "name": "u", "type": "STATIC", "connect_timeout": "5s", "metadata": {"filter_metadata": {"com.amazonaws.lambda": {"egress_gateway": True}}},
            "load_assignment": {"cluster_name": "u", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(api)}}]}]},
        }],
    }}
    (folder / "fenvoy.json").write_text(json.dumps(config))
    binary = next(VENV.glob("lib/python3*/site-packages/envoy/_bin/envoy"))
    args = [binary, "-c", folder / "fenvoy.json", "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    return Running("envoy", args, port, PROXY_CORE, folder, {**KEY, "AWS_REGION": REGION})


def functions(folder, args, report):
    """A call of a function through each proxy, and of the emulator alone."""
    (folder / "post.lua").write_text('wrk.method = "POST"\nwrk.body = string.rep("b", 200)\nwrk.headers["Content-Type"] = "text/plain"\n')
    (folder / "invoke.lua").write_text('wrk.method = "POST"\nwrk.path = "/2015-03-31/functions/echo/invocations"\nwrk.body = \'{"body":"\' .. string.rep("b", 200) .. \'"}\'\nwrk.headers["Content-Type"] = "application/json"\n')
    for make, title, connections in [(emulator, "functions: ministack, 4 connections", 4), (canned, "functions: Invoke API answered by nginx, saturated, 32 connections", 32)]:
        sub = folder / make.__name__
        sub.mkdir()
        api = make(sub)
        running = [banyan_functions(sub, api.port), envoy_functions(sub, api.port)]
        try:
            for proxy in running:
                proxy.script = folder / "post.lua"
                with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{proxy.port}/x", b"hello", {"Content-Type": "text/plain"})) as answer:
                    assert answer.status == 200 and answer.read() == b"a" * 1024, proxy.name
            api.script = folder / "invoke.lua"
            cells = {proxy.name: (proxy, "/x") for proxy in (api, *running)}
            table = ratios(interleaved(cells, args.rounds, args.secs, connections), "envoy")
            show(f"{title} (ratios to Envoy; {api.name} is the API alone, with its own CPU)", table)
            report[title] = table
        finally:
            [proxy.stop() for proxy in (*running, api)]


def claims(report):
    """What is claimed of Banyan alone; each line is (claim, figure, holds). Ratios to peers are reported, not claimed."""
    rows = []
    seen = report.get("observed: metrics, access log to a file and trace headers, 1 KiB")
    if seen:
        ratio = seen["observed"]["cpu_us"]["ratio"]
        rows.append(("metrics, access log and trace headers cost at most a tenth of a request's CPU", ratio, ratio <= 1.10))
    scale = report.get("banyan: more routes against 10")
    if scale:
        ratio = scale["100000"]["cpu_us"]["ratio"]
        rows.append(("100,000 routes cost at most 1.05 x the CPU of 10", ratio, ratio <= 1.05))
    for size, to_nginx in (("1 KiB", 1.50), ("64 KiB", 1.25)):
        cells = report.get(f"{size}, keep-alive, saturated, 32 connections")
        if cells:
            cpu = {name: row["cpu_us"]["ratio"] for name, row in cells.items()}
            rows.append((f"{size}: at most {to_nginx:.2f} x nginx's CPU per request", cpu["banyan"], cpu["banyan"] <= to_nginx))
            if size == "1 KiB":
                rows += [(f"{size}: at most {most} x that of {name}", round(cpu["banyan"] / cpu[name], 3), cpu["banyan"] / cpu[name] <= most) for name, most in (("envoy", 0.45), ("bare", 1.12))]
    for title, table in report.items():
        if title.startswith("memory of a connection"):
            rows.append(("a resting connection holds at most 23 KB", table["banyan"]["idle_bytes"], table["banyan"]["idle_bytes"] <= 23_000))
    for title, row in report.items():
        if title.startswith("reload under load") and title.endswith("banyan") and "p99_to_none" in row:
            rows.append((f"{title}: at most 1.10", row["p99_to_none"], row["p99_to_none"] <= 1.10))
        elif title.startswith("reload under load") and title.endswith("banyan"):
            rows.append((f"{title}: no connection lost", row["prober_connections_lost"] + row["prober_failed"], row["prober_connections_lost"] + row["prober_failed"] == 0))
            if "10000 routes" in title:
                net = row["apply_ms_median"] - DEBOUNCE_MS
                rows.append((f"{title}: under 50 ms beyond the {DEBOUNCE_MS} ms of debounce", round(net, 1), net < 50))
    if "100,000 routes" in report:
        row = report["100,000 routes"]
        rows.append(("100,000 routes load in under 1 s", row["check_s"], row["check_s"] < 1))
        rows.append(("100,000 routes take at most 100 MB", row["rss_mib"], row["rss_mib"] <= 95))
    return rows + mirror_claims(report)


WORKS = {
    "plain": plain, "post": post, "tls": tls, "h2": h2, "rate": rate, "observed": observed, "counts": counts, "lane": own_lane, "routes": routes, "reload": reload, "load": load, "resting": resting,
    "threads": threads, "functions": functions, "mirror": mirror, "isolation": isolation, "compare": compare, "tunnels": tunnels,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--secs", type=int, default=4)
    parser.add_argument("--reloads", type=int, default=20)
    parser.add_argument("--works", default=",".join(WORKS))
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    report = {"commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()}
    for name in args.works.split(","):
        with tempfile.TemporaryDirectory(prefix="banyan-bench-") as folder:
            WORKS[name](pathlib.Path(folder), args, report)
        if args.json:
            # After each, so that a run that is ended keeps what it has.
            args.json.write_text(json.dumps(report, indent=2) + "\n")
    rows = claims(report)
    print()
    for claim, figure, holds in rows:
        print(f"{'holds' if holds else 'FAILS'}  {claim}: {figure}")
    raise SystemExit(0 if all(holds for _, _, holds in rows) else 1)


if __name__ == "__main__":
    main()
