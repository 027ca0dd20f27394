"""TCP tunnels behind PROXY headers, beside HAProxy in TCP mode: what one that rests keeps, what opening one costs, and what a message and a GiB cost; and
what a resting pooled connection to a backend keeps, beside HAProxy in HTTP mode.

Memory is the proxy's own (RSS) after as many tunnels as given, less what it was before, for each; CPU is the kernel's run time of its threads.
"""

import asyncio
import contextlib
import statistics
import sys

from peers import BANYAN, LOAD_CORE, PROXY_CORE, ROOT, Running, lease

sys.path.insert(0, str(ROOT / "tests/e2e"))
from proxy_header import header

RESTING, POOLED, OPENED, MESSAGES, BULK_MIB = 2000, 1000, 1000, 20_000, 1024
HEADER = header("10.64.3.7", vpce="vpce-08d2bf15fac5001c9", padding=84)


async def echo(reader, writer):
    """Says back what it hears; to `bulk N\\n` with N MiB; speaks HTTP where it is asked for it, and holds the answer until all have asked."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
        while data := await reader.read(65536):
            if data.startswith(b"bulk "):
                piece = b"x" * (1 << 18)
                for _ in range(int(data.split()[1]) * 4):
                    writer.write(piece)
                    await writer.drain()
            elif data.startswith(b"GET "):
                Held.waiting += 1
                if Held.waiting >= POOLED:
                    Held.all_there.set()
                await Held.all_there.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            else:
                writer.write(data)
            await writer.drain()
    writer.close()


class Held:
    waiting, all_there = 0, asyncio.Event()


def banyan(folder, up):
    tcp, http, admin = lease(), lease(), lease()
    (folder / "rules").mkdir()
    (folder / "rules/r.yaml").write_text(
        f'version: 1\nbackends: {{u: {{urls: ["http://127.0.0.1:{up}"]}}}}\nroutes: [{{id: r, match: {{prefix: /}}, legacy: u}}]\n'
        f"egress: [{{id: t, listener: tcp, callers: {{cidr: [10.64.0.0/10]}}, to: {{host: 127.0.0.1, ports: [{up}]}}}}]\n"
    )
    (folder / "settings.yaml").write_text(
        f"version: 1\nthreads: 1\nlogs: {{access: off}}\nlisteners:\n  - {{name: tcp, address: '127.0.0.1:{tcp}', mode: tcp, proxy_protocol: {{from: [127.0.0.0/8]}}}}\n  - {{name: http, address: '127.0.0.1:{http}'}}\n"
    )
    running = Running("banyan", [BANYAN, "run", "--rules", folder / "rules", "--settings", folder / "settings.yaml", "--admin", f"127.0.0.1:{admin}", "--state", folder / "state"], http, PROXY_CORE, folder)
    return running, tcp, http


def haproxy(folder, up):
    tcp, http = lease(), lease()
    (folder / "haproxy.cfg").write_text(
        "global\n  nbthread 1\n  maxconn 9000\ndefaults\n  timeout connect 5s\n  timeout client 340s\n  timeout server 340s\n"
        f"listen t\n  mode tcp\n  bind 127.0.0.1:{tcp} accept-proxy backlog 8192\n  server s 127.0.0.1:{up}\n"
        f"listen h\n  mode http\n  http-reuse always\n  bind 127.0.0.1:{http} backlog 8192\n  server s 127.0.0.1:{up} pool-max-conn -1 pool-purge-delay 3600s\n"
    )
    return Running("haproxy", ["haproxy", "-W", "-db", "-f", folder / "haproxy.cfg"], http, PROXY_CORE, folder), tcp, http


async def tunnel(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HEADER + b"hello")
    assert await reader.readexactly(5) == b"hello"
    return reader, writer


async def closed(pairs):
    for _, writer in pairs:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for _, writer in pairs), return_exceptions=True)


async def together(make, count, width=100):
    """`count` results, `width` at a time."""
    results = []
    for start in range(0, count, width):
        results += await asyncio.gather(*(make() for _ in range(min(width, count - start))))
    return results


async def get(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
    return reader, writer


async def settled(running):
    """RSS once it no longer moves."""
    before = None
    while (now := running.rss_mib()) != before:
        before = now
        await asyncio.sleep(0.3)
    return now


async def measure(running, tcp, http):
    row = {}
    await closed(await together(lambda: tunnel(tcp), 50))
    before = await settled(running)
    resting = await together(lambda: tunnel(tcp), RESTING)
    row["KiB of a resting tunnel"] = (await settled(running) - before) * 1024 / RESTING
    await closed(resting)
    cpu = running.cpu_ns()

    async def once():
        await closed([await tunnel(tcp)])

    await together(once, OPENED, 20)
    await asyncio.sleep(0.2)
    row["us to open and close"] = (running.cpu_ns() - cpu) / 1000 / OPENED
    talking = await together(lambda: tunnel(tcp), 32)
    cpu, message = running.cpu_ns(), b"m" * 1024

    async def talk(reader, writer):
        for _ in range(MESSAGES // 32):
            writer.write(message)
            await reader.readexactly(1024)

    await asyncio.gather(*(talk(*pair) for pair in talking))
    row["us for 1 KiB and back"] = (running.cpu_ns() - cpu) / 1000 / (MESSAGES // 32 * 32)
    await closed(talking)
    reader, writer = await tunnel(tcp)
    cpu, left = running.cpu_ns(), BULK_MIB << 20
    writer.write(b"bulk %d\n" % BULK_MIB)
    while left > 0:
        left -= len(await reader.read(1 << 18))
    row["ms for a GiB"] = (running.cpu_ns() - cpu) / 1e6 / (BULK_MIB / 1024)
    await closed([(reader, writer)])
    before = await settled(running)
    Held.waiting, Held.all_there = 0, asyncio.Event()
    # All at once, so that each has a connection of its own to the backend; then the clients go, and the connections stay.
    asking = await asyncio.gather(*(get(http) for _ in range(POOLED)))
    await closed(asking)
    row["KiB of a pooled connection"] = (await settled(running) - before) * 1024 / POOLED
    return row


async def rounds(folder, count):
    server = await asyncio.start_server(echo, "127.0.0.1", 0, backlog=8192)
    up = server.sockets[0].getsockname()[1]
    rows = {"banyan": [], "haproxy": []}
    for number in range(count):
        for name, make in (("banyan", banyan), ("haproxy", haproxy)):
            sub = folder / f"{name}-{number}"
            sub.mkdir()
            running, tcp, http = make(sub, up)
            try:
                rows[name].append(await measure(running, tcp, http))
            finally:
                running.stop()
    return rows


def tunnels(folder, args, report):
    import os

    os.sched_setaffinity(0, {int(LOAD_CORE)})
    try:
        rows = asyncio.run(rounds(folder, args.rounds))
    finally:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    table = {}
    print(f"\nTCP tunnels with PROXY headers\n{'':30}{'banyan':>10}{'haproxy':>10}{'ratio':>8}{'spread':>14}")
    for figure in rows["banyan"][0]:
        ours, theirs = ([row[figure] for row in rows[name]] for name in ("banyan", "haproxy"))
        pairs = [one / max(other, 1e-9) for one, other in zip(ours, theirs, strict=True)]
        cell = {"banyan": round(statistics.median(ours), 2), "haproxy": round(statistics.median(theirs), 2), "ratio": round(statistics.median(pairs), 3), "low": round(min(pairs), 3), "high": round(max(pairs), 3)}
        table[figure] = cell
        print(f"{figure:30}{cell['banyan']:>10.1f}{cell['haproxy']:>10.1f}{cell['ratio']:>8.2f}{cell['low']:>8.2f}-{cell['high']:.2f}", flush=True)
    report["tunnels"] = table
