"""Every request copied to a shadow that is fast, late (50 ms), slow (2 s) or dead: what that costs the primary, beside nginx's mirror and Envoy's.

First at a fixed rate that all of them can serve, where every copy can be sent: CPU per request (of the whole process, so the copies and, of Banyan, the comparisons
are in it), and the primary's p99. Then saturated, where who waits for its shadow falls behind. Copies sent are counted at the shadow.
"""

import asyncio
import itertools
import json
import math
import os
import pathlib
import resource
import statistics
import subprocess
import sys

from peers import BANYAN, LOAD_CORE, PROXY_CORE, VENV, Running, lease, wrk

RATE, CLIENTS = 2000, 8
# Of the work `isolation`: turns for each round, their seconds, and how long the last of slow copies may wait and be under way, each 2 s.
TURNS_PER_ROUND, TURN_S, OVER_S = 6, 3, 5
SHADOWS = ["none", "fast", "late", "slow", "dead"]
BODY = json.dumps({"flights": [{"id": f"BA{n:03}", "from": "ICN", "to": "NRT", "price": 100 + n, "seats": n} for n in range(56)]})


def nginx_conf(folder, name, servers):
    temp = "".join(f"{kind}_temp_path {folder}/{name}-{kind};" for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / f"{name}.conf").write_text(
        f"{user} daemon off; worker_processes 1; pid {folder}/{name}.pid; error_log /dev/null crit; events {{ worker_connections 16384; }}\n"
        f"http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s; tcp_nodelay on; {temp}\n{servers}\n}}\n")
    return ["nginx", "-c", folder / f"{name}.conf"]


def origins(folder):
    """Legacy and the fast shadow, by nginx: the same 4 KiB of JSON."""
    legacy, fast = lease(), lease()
    servers = "".join(f"server {{ listen 127.0.0.1:{port} backlog=8192; default_type application/json; location / {{ return 200 '{BODY}'; }} }}\n" for port in (legacy, fast))
    return Running("origins", nginx_conf(folder, "origins", servers), legacy, LOAD_CORE, folder), legacy, fast


async def slow_server(port, seconds):
    """Answers after so long, whoever waits."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY.encode())

    async def one(reader, writer):
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(seconds)
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", port, backlog=8192)
    await server.serve_forever()


def shadow_server(name, port, seconds, folder):
    """It shares its core with the load, and shall not be what is felt."""
    args = ["nice", "-n", "19", sys.executable, pathlib.Path(__file__).resolve(), port, seconds]
    return Running(name, args, port, LOAD_CORE, folder)


def nginx(folder, shadow, legacy, port_of_shadow, alone=False):
    port = lease()
    mirrored = "" if shadow == "none" else "mirror /m;"
    servers = (
        f"upstream u {{ server 127.0.0.1:{legacy}; keepalive 1024; keepalive_requests 1000000000; }}\nupstream s {{ server 127.0.0.1:{port_of_shadow}; keepalive 1024; keepalive_requests 1000000000; }}\n"
        f'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;\n'
        f"server {{ listen 127.0.0.1:{port} backlog=8192; location / {{ {mirrored} proxy_pass http://u; }} location = /m {{ internal; proxy_pass http://s$request_uri; }} }}")
    args = [*nginx_conf(folder, f"nginx-{shadow}", servers), *(["-g", "master_process off;"] if alone else [])]
    return Running(f"nginx-{shadow}", args, port, PROXY_CORE, folder)


def nginx_manual(folder, shadow, legacy, port_of_shadow):
    """As its manual mirrors a request without its body. Headers set in a location replace those set around it, so that each mirrored request says
    `Connection: close` and has a connection of its own: what one gets who does not know that."""
    port = lease()
    servers = (
        f"upstream u {{ server 127.0.0.1:{legacy}; keepalive 1024; keepalive_requests 1000000000; }}\nupstream s {{ server 127.0.0.1:{port_of_shadow}; keepalive 1024; keepalive_requests 1000000000; }}\n"
        f'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;\n'
        f"server {{ listen 127.0.0.1:{port} backlog=8192; location / {{ mirror /m; mirror_request_body off; proxy_pass http://u; }} "
        f'location = /m {{ internal; proxy_pass_request_body off; proxy_set_header Content-Length ""; proxy_pass http://s$request_uri; }} }}')
    return Running(f"nginx-manual-{shadow}", nginx_conf(folder, f"nginx-manual-{shadow}", servers), port, PROXY_CORE, folder)


def envoy(folder, shadow, legacy, port_of_shadow):
    port = lease()
    address = lambda p: {"socket_address": {"address": "127.0.0.1", "port_value": p}}
    cluster = lambda name, p: {"name": name, "type": "STATIC", "connect_timeout": "5s",
                               "circuit_breakers": {"thresholds": [{"max_connections": 100000, "max_pending_requests": 100000, "max_requests": 100000}]},
                               "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(p)}}]}]}}
    route = {"cluster": "u"} if shadow == "none" else {"cluster": "u", "request_mirror_policies": [{"cluster": "s"}]}
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "h", "codec_type": "HTTP1", "generate_request_id": False,
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router", "suppress_envoy_headers": True}}],
        "route_config": {"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}]},
    }
    config = {"node": {"id": "n", "cluster": "c"}, "static_resources": {
        "listeners": [{"name": "l", "address": address(port), "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}]}],
        "clusters": [cluster("u", legacy), cluster("s", port_of_shadow)]}}
    (folder / f"envoy-{shadow}.json").write_text(json.dumps(config))
    binary = next(VENV.glob("lib/python3*/site-packages/envoy/_bin/envoy"))
    args = [binary, "-c", folder / f"envoy-{shadow}.json", "--concurrency", "1", "--disable-hot-restart", "-l", "off"]
    return Running(f"envoy-{shadow}", args, port, PROXY_CORE, folder)


def banyan(folder, name, legacy, *shadows):
    """One shadow: a route for everything, copied to it unless the name is `none`. Two: a route that is not copied, and one for each, by the first of the path."""
    port, admin, home = lease(), lease(), folder / f"banyan-{name}"
    (home / "rules").mkdir(parents=True)
    backends = "".join(f', s{at}: {{urls: ["http://127.0.0.1:{shadow}"]}}' for at, shadow in enumerate(shadows))
    # Controls are switched off: the peers have none.
    route = lambda name, prefix, at, copied: (  # noqa: E731
        f"{{id: {name}, match: {{prefix: {prefix}}}, legacy: u, serverless: s{at}, effects: safe, stage: {'shadow, shadow: {sample: 100%, controls: 0%}' if copied else 'legacy'}}}")
    one = [route("r", "/", 0, name != "none")]
    each = [route("none", "/none", 0, False), route("slow", "/slow", 0, True), route("dead", "/dead", 1, True)]
    (home / "rules/r.yaml").write_text(
        f'version: 1\nbackends: {{u: {{urls: ["http://127.0.0.1:{legacy}"]}}{backends}}}\nroutes: [{", ".join(one if len(shadows) == 1 else each)}]\n')
    (home / "settings.yaml").write_text("version: 1\nthreads: 1\nlogs: {access: off}\n")
    args = [BANYAN, "run", "--rules", home / "rules", "--settings", home / "settings.yaml", "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}", "--state", home / "state"]
    running = Running(f"banyan-{name}", args, port, PROXY_CORE, home)
    running.admin = admin
    return running


def counts(running, route="r"):
    out = subprocess.run(["curl", "-s", f"http://127.0.0.1:{running.admin}/api/v1/evidence/{route}"], capture_output=True, text=True).stdout
    value = json.loads(out)
    return {"eligible": value["eligible"], "compared": value["compared"], "mismatched": value["mismatched"], "dropped": value["dropped_by"]}


def at_rate(running, secs, folder, path="/x", leave_out_s=0, over_s=1):
    """h2load at a fixed rate, open loop per client; the log has each request's time. Quantiles are of what began after the seconds left out, CPU is of all
    of it and of the time in which copies are still sent."""
    log = folder / "h2load.log"
    log.unlink(missing_ok=True)
    before = running.cpu_ns()
    number = RATE * secs
    subprocess.run(["taskset", "-c", LOAD_CORE, "h2load", "--h1", "-t1", f"-c{CLIENTS}", f"-n{number}", f"--rps={RATE // CLIENTS}", f"--log-file={log}", f"http://127.0.0.1:{running.port}{path}"],
                   capture_output=True, check=True, timeout=secs * 40 + 60)
    rows = [line.split("\t") for line in log.read_text().splitlines()]
    if len(rows) != number or any(row[1] != "200" for row in rows):
        raise SystemExit(f"{running.name}: {len(rows)} of {number} answers, {sum(row[1] != '200' for row in rows)} failed")
    begun = min(int(row[0]) for row in rows)
    times = sorted(int(row[2]) for row in rows if int(row[0]) - begun >= leave_out_s * 1_000_000)
    # Copies still under way belong to these requests.
    subprocess.run(["sleep", f"{over_s}"], check=True)
    return {"cpu_us": (running.cpu_ns() - before) / 1000 / number, "p50_us": times[len(times) // 2], "p99_us": times[len(times) * 99 // 100]}


def mirror(folder, args, report):
    origin, legacy, fast = origins(folder)
    late, slow, dead = lease(), lease(), lease()
    servers = [shadow_server("late", late, 0.05, folder), shadow_server("slow", slow, 2, folder)]
    ports = {"none": fast, "fast": fast, "late": late, "slow": slow, "dead": dead}
    running = {f"{name} {shadow}": make(folder, shadow, legacy, ports[shadow]) for shadow in SHADOWS for name, make in (("nginx", nginx), ("envoy", envoy), ("banyan", banyan))}
    running["nginx by-manual"] = nginx_manual(folder, "fast", legacy, fast)
    # With a mirror that takes its time it does not keep up with anything.
    running["nginx slow"].may_fail = running["nginx late"].may_fail = True
    try:
        for title, measure in [
            (f"mirror: {RATE} requests a second, 4 KiB of JSON", lambda it: at_rate(it, args.secs, folder)),
            ("mirror: saturated, 32 connections", lambda it: wrk(it, "/x", args.secs, 32)),
        ]:
            rows = {name: [] for name in running}
            for number in range(args.rounds + 1):
                for name, it in running.items():
                    # nginx holds a client's connection until its mirror has answered: at a fixed rate that is beyond it.
                    if name in ("nginx late", "nginx slow") and "saturated" not in title:
                        continue
                    if name == "nginx slow" and number > 1:
                        continue
                    row = measure(it)
                    if number:
                        rows[name].append(row)
            table = {}
            print(f"\n{title}\n{'':16}{'CPU us/req':>12}{'to nginx fast':>15}{'p50 us':>10}{'p99 us':>12}{'p99 to none':>13}{'req/s':>10}")
            for name, all_rows in rows.items():
                if not all_rows:
                    continue
                base = rows[f"{name.split()[0]} none"]
                median = lambda figure: statistics.median(row[figure] for row in all_rows)
                table[name] = {
                    "cpu_us": round(median("cpu_us"), 2), "cpu_to_nginx_fast": round(statistics.median(a["cpu_us"] / b["cpu_us"] for a, b in zip(all_rows, rows["nginx fast"])), 3),
                    "p50_us": round(median("p50_us")), "p99_us": round(median("p99_us")), "p99_to_none": round(statistics.median(a["p99_us"] / b["p99_us"] for a, b in zip(all_rows, base)), 3),
                    "rps": round(median("rps")) if "rps" in all_rows[0] else RATE,
                }
                it = table[name]
                print(f"{name:16}{it['cpu_us']:>12.1f}{it['cpu_to_nginx_fast']:>15.2f}{it['p50_us']:>10}{it['p99_us']:>12}{it['p99_to_none']:>13.2f}{it['rps']:>10}", flush=True)
            for shadow in SHADOWS[1:]:
                table[f"banyan {shadow}"]["counts"] = counts(running[f"banyan {shadow}"])
                print(f"banyan {shadow}: {table[f'banyan {shadow}']['counts']}")
            report[title] = table
    finally:
        [it.stop() for it in (*running.values(), origin, *servers)]


def isolation(folder, args, report):
    """p99 and CPU with a slow and a dead shadow beside those without one, of one process that has a route for each, so that nothing differs but the shadow. Of p99 the first
    second of a turn is left out: a slow shadow is behind after it, and its copies begin and end in those that are looked at. A machine that stumbles now and then takes
    some turns from all of them, and the median of many pairs stands. Its interval is by order statistics, 95 %. All turns are in the report, and the ratio of their lower
    quartiles as well: what comes from elsewhere only makes turns slower."""
    origin, legacy, _ = origins(folder)
    slow, dead = lease(), lease()
    server = shadow_server("slow", slow, 2, folder)
    running = banyan(folder, "each", legacy, slow, dead)
    orders = list(itertools.permutations(["none", "slow", "dead"]))
    turns = {shadow: [] for shadow in orders[0]}
    try:
        at_rate(running, 1, folder, "/none")
        for turn in range(args.rounds * TURNS_PER_ROUND):
            # Each follows each as often.
            for shadow in orders[turn % len(orders)]:
                turns[shadow].append(at_rate(running, TURN_S, folder, f"/{shadow}", 1, OVER_S))
        told = {shadow: counts(running, shadow) for shadow in ("slow", "dead")}
    finally:
        [it.stop() for it in (running, server, origin)]
    row = {}
    for name, figure in (("p99", "p99_us"), ("cpu", "cpu_us")):
        of_all = {shadow: [turn[figure] for turn in each] for shadow, each in turns.items()}
        row |= {f"{figure} {shadow}": round(statistics.median(each), 1) for shadow, each in of_all.items()}
        quiet = {shadow: statistics.quantiles(each, n=4)[0] for shadow, each in of_all.items()}
        for shadow in ("slow", "dead"):
            of = sorted(a / b for a, b in zip(of_all[shadow], of_all["none"]))
            reach = 0.98 * math.sqrt(len(of))
            low, high = of[max(0, math.floor(len(of) / 2 - reach))], of[min(len(of) - 1, math.ceil(len(of) / 2 + reach))]
            row |= {f"{name} {shadow} to none": round(statistics.median(of), 3), f"{name} {shadow} to none, 95 %": [round(low, 3), round(high, 3)],
                    f"{name} {shadow} to none, lower quartiles": round(quiet[shadow] / quiet["none"], 3)}
    row |= {"pairs of turns": len(turns["none"]), "counts": told}
    print(f"\nisolation at {RATE} requests a second: {row}", flush=True)
    report["isolation"] = row | {"turns": {shadow: [[turn["p99_us"], round(turn["cpu_us"], 1)] for turn in each] for shadow, each in turns.items()}}


def compare(folder, args, report):
    """Pairs of 4 KiB of JSON that are equal in meaning and not in bytes, compared by one thread of the real binary; reading the file is in it."""
    one = json.loads(BODY)
    lines = []
    for number in range(20_000):
        one["flights"][number % 56]["seats"] = number
        other = {"flights": [dict(reversed(flight.items())) for flight in one["flights"]]}
        sides = {side: {"status": 200, "headers": {"content-type": "application/json"}, "body": json.dumps(value, separators=separators)}
                 for side, value, separators in (("legacy", one, None), ("serverless", other, (",", ":")))}
        lines.append(json.dumps({"url": f"/x/{number}", **sides}))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    rates = []
    for _ in range(args.rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        out = subprocess.run([BANYAN, "compare", "rescore", folder / "pairs.jsonl", "--output", "json"], capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        verdict = json.loads(out.stdout)
        assert out.returncode == 0 and verdict["compared"] == 20_000 and verdict["mismatched"] == 0, out.stderr
        rates.append(20_000 / (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
    row = {"pairs_per_cpu_second": round(statistics.median(rates)), "bytes": len(BODY)}
    print(f"\ncompared: {row}", flush=True)
    report["compared"] = row


def mirror_claims(report):
    """A shadow in trouble is not felt, and one that is not costs less than nginx's mirror does."""
    rows = []
    for shadow in ("slow", "dead") if "isolation" in report else ():
        for name in ("p99", "cpu"):
            ratio = report["isolation"][f"{name} {shadow} to none"]
            rows.append((f"{name} with a {shadow} shadow within 1.05 x of none", ratio, ratio <= 1.05))
    for title, table in report.items():
        if title.startswith("mirror: ") and "requests a second" in title:
            ratio = table["banyan fast"]["cpu_to_nginx_fast"]
            rows.append((f"{title}: copying all to a fast shadow costs less CPU than nginx's mirror", ratio, ratio < 1))
    if "compared" in report:
        rate = report["compared"]["pairs_per_cpu_second"]
        rows.append(("2,000 answers of 4 KiB compared in a second of one core", rate, rate >= 2_000))
    return rows


if __name__ == "__main__":
    asyncio.run(slow_server(int(sys.argv[1]), float(sys.argv[2])))
