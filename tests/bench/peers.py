"""The proxies that stand beside each other, each with one worker on one core, and what is measured of them."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BANYAN = TARGET / "release" / "banyan"
BARE = TARGET / "release" / "bare-pingora"
LANE = TARGET / "release" / "own-lane"
VENV = pathlib.Path(os.environ.get("BANYAN_VENV", ROOT / "tests/.venv"))
PROXY_CORE, LOAD_CORE = ("0", "1") if (os.cpu_count() or 1) > 1 else ("0", "0")


def lease():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_open(port, process, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise SystemExit(f"nothing listens on {port}: {process.args}")


class Running:
    def __init__(self, name, args, port, core, folder, env=None):
        self.name, self.port, self.script, self.may_fail = name, port, None, False
        self.log = open(folder / f"{name}.log", "wb")
        env = {**os.environ, **(env or {})}
        self.process = subprocess.Popen(["taskset", "-c", core, *map(str, args)], cwd=folder, stdout=self.log, stderr=self.log, preexec_fn=os.setsid, env=env)
        wait_open(port, self.process)

    def pids(self):
        """The process and all below it: nginx and HAProxy have workers."""
        found, queue = [], [self.process.pid]
        while queue:
            pid = queue.pop()
            found.append(pid)
            with contextlib.suppress(OSError):
                for task in os.listdir(f"/proc/{pid}/task"):
                    queue += map(int, pathlib.Path(f"/proc/{pid}/task/{task}/children").read_text().split())
        return found

    def cpu_ns(self):
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for task in os.listdir(f"/proc/{pid}/task"):
                    total += int(pathlib.Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
        return total

    def rss_mib(self):
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                status = pathlib.Path(f"/proc/{pid}/status").read_text()
                total += int(re.search(r"VmRSS:\s+(\d+)", status).group(1))
        return total / 1024

    def stop(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()


def upstream(folder):
    port = lease()
    www = folder / "www"
    www.mkdir()
    body = "a" * 1024
    (www / "1k").write_text(body)
    (www / "64k").write_bytes(b"a" * 65536)
    temp = "".join(f"{kind}_temp_path {folder}/u-{kind};" for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "up.conf").write_text(
        f"{user} daemon off; worker_processes 1; pid {folder}/up.pid; error_log {folder}/up.err; events {{ worker_connections 16384; }}\n"
        f"http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s; sendfile on; tcp_nodelay on; {temp} open_file_cache max=10; default_type text/plain;\n"
        f"server {{ listen 127.0.0.1:{port} backlog=8192; root {www}; location = /64k {{ }} location = /post {{ return 200 {body}; }} location / {{ try_files /1k =404; }} }} }}\n"
    )
    return Running("upstream", ["nginx", "-c", folder / "up.conf"], port, LOAD_CORE, folder)


class Rules:
    """Rules of a peer as files: prepared beside those that serve, which may take a while, and then applied at once."""

    def __init__(self, prepare, apply):
        self.prepare, self.apply = prepare, apply

    def __call__(self, version):
        self.prepare(version)
        self.apply()


def ports(running, tls, h2):
    running.tls_port, running.h2_port = tls, h2
    return running


def nginx(folder, up, routes, version=0, alone=False, tls=None, h2=False):
    """`alone`: one process, without a master. `tls`: a certificate's files; `h2`: HTTP/2 without TLS; on listeners of their own."""
    port, tls_port, h2_port = lease(), lease(), lease()
    listen = f"listen 127.0.0.1:{port} backlog=8192;"
    if tls:
        listen += f" listen 127.0.0.1:{tls_port} ssl backlog=8192; ssl_certificate {tls}.crt; ssl_certificate_key {tls}.key;"
    if h2:
        listen += f" listen 127.0.0.1:{h2_port} http2 backlog=8192;"
    conf = folder / "nginx.conf"

    def write(version):
        temp = "".join(f"{kind}_temp_path {folder}/n-{kind};" for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
        user = "user root;" if os.geteuid() == 0 else ""
        locations = "".join(f"location /svc{n}/ {{ proxy_pass http://u; }}\n" for n in range(routes))
        conf.write_text(
            f"{user} daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.err; events {{ worker_connections 16384; }}\n"
            f"http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s; http2_max_requests 1000000000; tcp_nodelay on; {temp}\n"
            f"upstream u {{ server 127.0.0.1:{up}; keepalive 1024; keepalive_requests 1000000000; keepalive_timeout 3600s; }}\n"
            f'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; proxy_buffer_size 16k; proxy_buffers 16 16k; proxy_busy_buffers_size 64k;\n'
            f"server {{ {listen} add_header x-rule {version} always;\n{locations}location / {{ proxy_pass http://u; }} }} }}\n"
        )

    write(version)
    running = Running("nginx", ["nginx", "-c", conf, *(["-g", "master_process off;"] if alone else [])], port, PROXY_CORE, folder)
    return ports(running, tls_port, h2_port), Rules(write, lambda: os.kill(running.process.pid, signal.SIGHUP))


def haproxy(folder, up, routes, version=0, alone=False, tls=None, h2=False):
    port, tls_port, h2_port = lease(), lease(), lease()
    more = f"  bind 127.0.0.1:{tls_port} ssl crt {tls}.pem backlog 8192\n" if tls else ""
    more += f"  bind 127.0.0.1:{h2_port} proto h2 backlog 8192\n" if h2 else ""
    conf = folder / "haproxy.cfg"
    (folder / "haproxy.map").write_text("".join(f"/svc{n}/ b\n" for n in range(routes)))

    def write(version):
        conf.write_text(
            "global\n  nbthread 1\n  maxconn 9000\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 3600s\n  timeout server 60s\n"
            "  timeout http-keep-alive 3600s\n  http-reuse always\n"
            f"frontend f\n  bind 127.0.0.1:{port} backlog 8192\n{more}  http-response set-header x-rule {version}\n"
            f"  use_backend %[path,map_beg({folder}/haproxy.map,b)]\n"
            f"backend b\n  server s 127.0.0.1:{up} pool-max-conn -1 pool-purge-delay 3600s\n"
        )

    write(version)
    running = Running("haproxy", ["haproxy", *([] if alone else ["-W"]), "-db", "-f", conf], port, PROXY_CORE, folder)
    return ports(running, tls_port, h2_port), Rules(write, lambda: os.kill(running.process.pid, signal.SIGUSR2))


def envoy(folder, up, routes, version=0, tls=None, h2=False):
    port, tls_port, h2_port = lease(), lease(), lease()
    rds = folder / "rds"
    rds.mkdir(exist_ok=True)

    def write(version):
        route = lambda prefix: {"match": {"prefix": prefix}, "route": {"cluster": "u"}}
        table = {
            "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration", "name": "r",
            "response_headers_to_add": [{"header": {"key": "x-rule", "value": str(version)}}],
            "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [*(route(f"/svc{n}/") for n in range(routes)), route("/")]}],
        }
        (folder / "rds.new").write_text(json.dumps({"version_info": str(version), "resources": [table]}))

    write = Rules(write, lambda: (folder / "rds.new").rename(rds / "rds.json"))
    write(version)
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "h", "codec_type": "AUTO" if h2 else "HTTP1", "generate_request_id": False,
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router", "suppress_envoy_headers": True}}],
        "rds": {"route_config_name": "r", "config_source": {"path_config_source": {"path": str(rds / "rds.json")}}},
    }
    address = lambda p: {"socket_address": {"address": "127.0.0.1", "port_value": p}}
    many = 100000
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    listeners = [{"name": "l", "address": address(port), "filter_chains": [chain]}]
    if h2:
        listeners.append({"name": "h2", "address": address(h2_port), "filter_chains": [chain]})
    if tls:
        context = {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                   "common_tls_context": {"tls_certificates": [{"certificate_chain": {"filename": f"{tls}.crt"}, "private_key": {"filename": f"{tls}.key"}}]}}
        listeners.append({"name": "tls", "address": address(tls_port), "filter_chains": [{**chain, "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context}}]})
    config = {
        "node": {"id": "n", "cluster": "c"},
        "static_resources": {
            "listeners": listeners,
            "clusters": [{
                "name": "u", "type": "STATIC", "connect_timeout": "5s",
                "circuit_breakers": {"thresholds": [{"max_connections": many, "max_pending_requests": many, "max_requests": many}]},
                "load_assignment": {"cluster_name": "u", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(up)}}]}]},
            }],
        },
    }
    (folder / "envoy.json").write_text(json.dumps(config))
    binary = next(VENV.glob("lib/python3*/site-packages/envoy/_bin/envoy"))
    args = [binary, "-c", folder / "envoy.json", "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    return ports(Running("envoy", args, port, PROXY_CORE, folder), tls_port, h2_port), write


def banyan_rules(path, up, routes, version):
    items = "".join(f'  - {{id: r{n}, match: {{prefix: /svc{n}}}, legacy: u, serverless: u, cohort: c, stage: canary, share: 50%}}\n' for n in range(routes))
    # The header stands in one route: what a team changes in a large rule set is one of them.
    path.write_text(
        f'version: 1\nbackends: {{u: {{urls: ["http://127.0.0.1:{up}"]}}}}\ncohorts: {{c: {{key: [client.ip]}}}}\nroutes:\n{items}'
        f'  - {{id: rest, match: {{prefix: /}}, legacy: u, response_headers: {{set: {{X-Rule: "{version}"}}}}}}\n'
    )


def banyan(folder, up, routes, version=0, log="off", env=None, tls=None, h2=False, threads=1, core=PROXY_CORE):
    port, admin, tls_port, h2_port = lease(), lease(), lease(), lease()
    rules = folder / "rules"
    shutil.rmtree(rules, ignore_errors=True)
    rules.mkdir()

    beside = folder / "rules.new"
    write = Rules(lambda version: banyan_rules(beside, up, routes, version), lambda: beside.rename(rules / "rules.yaml"))
    write(version)
    access = log if log == "off" else str(folder / "access.log")
    listeners = [f'{{name: plain, address: "127.0.0.1:{port}"}}']
    if tls:
        listeners.append(f'{{name: tls, address: "127.0.0.1:{tls_port}", tls: {{cert: {tls}.crt, key: {tls}.key}}}}')
    if h2:
        listeners.append(f'{{name: h2, address: "127.0.0.1:{h2_port}", h2c: true}}')
    (folder / "settings.yaml").write_text(
        f"version: 1\nthreads: {threads}\nlogs: {{access: {access}}}\nattribution_header: true\nlisteners: [{', '.join(listeners)}]\n")
    args = [BANYAN, "run", "--rules", rules, "--settings", folder / "settings.yaml", "--admin", f"127.0.0.1:{admin}", "--state", folder / "state"]
    return ports(Running("banyan", args, port, core, folder, env), tls_port, h2_port), write


def bare(folder, up, _routes, tls=None, h2=False):
    """The framework alone. It has no rules."""
    port, tls_port, h2_port = lease(), lease(), lease()
    args = [BARE, f"127.0.0.1:{port}", f"127.0.0.1:{up}"]
    if tls:
        args += ["--tls", f"127.0.0.1:{tls_port}", f"{tls}.crt", f"{tls}.key"]
    if h2:
        args += ["--h2c", f"127.0.0.1:{h2_port}"]
    return ports(Running("bare", args, port, PROXY_CORE, folder), tls_port, h2_port), lambda v: None


def lane(folder, up, routes, log="file"):
    """The prototype of a lane of our own (docs/own-lane.md), with Banyan's rules."""
    port, rules = lease(), folder / "rules"
    rules.mkdir()
    banyan_rules(rules / "rules.yaml", up, routes, 0)
    access = "off" if log == "off" else folder / "access.log"
    return Running("lane", [LANE, rules, access, f"127.0.0.1:{port}=plain"], port, PROXY_CORE, folder), lambda v: None


PEERS = {"nginx": nginx, "haproxy": haproxy, "envoy": envoy, "banyan": banyan}


def wrk(running, path, secs, connections):
    before = running.cpu_ns()
    script = ["-s", running.script] if running.script else []
    out = subprocess.run(["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{connections}", f"-d{secs}s", "--latency", *script, f"http://127.0.0.1:{running.port}{path}"], capture_output=True, text=True).stdout
    cpu = running.cpu_ns() - before
    requests = int(re.search(r"(\d+) requests in", out).group(1))
    if not running.may_fail and ("Non-2xx" in out or "Socket errors" in out or requests == 0):
        raise SystemExit(f"{running.name}: {out}")
    unit = {"us": 1, "ms": 1000, "s": 1_000_000}

    def quantile(which):
        number, suffix = re.search(rf"{which}%\s+([\d.]+)(us|ms|s)", out).groups()
        return float(number) * unit[suffix]

    return {"cpu_us": cpu / 1000 / requests, "rps": requests / secs, "p50_us": quantile(50), "p99_us": quantile(99)}


def interleaved(cells, rounds, secs, connections):
    """cells: name -> (running, path). One list of results a cell, all cells in every round."""
    results = {name: [] for name in cells}
    for running, path in cells.values():
        wrk(running, path, 1, connections)
    for _ in range(rounds):
        for name, (running, path) in cells.items():
            results[name].append(wrk(running, path, secs, connections))
    return results


def ratios(results, base):
    """Median and spread of same-round ratios to `base`, per figure."""
    table = {}
    for name, rows in results.items():
        table[name] = {}
        for figure in ["cpu_us", "rps", "p50_us", "p99_us"]:
            pairs = [row[figure] / other[figure] for row, other in zip(rows, results[base])]
            table[name][figure] = {
                "median": round(statistics.median(row[figure] for row in rows), 2),
                "ratio": round(statistics.median(pairs), 3), "low": round(min(pairs), 3), "high": round(max(pairs), 3),
            }
    return table


def show(title, table):
    print(f"\n{title}")
    print(f"{'':14}{'CPU us/req':>12}{'ratio':>8}{'spread':>14}{'req/s':>10}{'ratio':>8}{'p50 us':>10}{'ratio':>8}{'p99 us':>10}{'ratio':>8}")
    for name, row in table.items():
        cpu = row["cpu_us"]
        spread = f"{cpu['low']:.2f}-{cpu['high']:.2f}"
        cells = "".join(f"{row[f]['median']:>10.0f}{row[f]['ratio']:>8.2f}" for f in ["rps", "p50_us", "p99_us"])
        print(f"{name:14}{cpu['median']:>12.1f}{cpu['ratio']:>8.2f}{spread:>14}{cells}", flush=True)
