"""Callers in a large network: each from an address of its own among hundreds, all at once; prints a line of JSON.

    python functions.py ENDPOINT CONNECT_PORT HTTP_PORT COUNT ADDRESSES TRIES ROUNDS

Even ones ask by CONNECT, odd ones by a route over HTTP. Each does one thing ROUNDS times, and each time tries again at most TRIES times, as a function's
client does.
"""

import asyncio
import json
import resource
import sys
import time

ENDPOINT, CONNECT, HTTP, COUNT, ADDRESSES, TRIES, ROUNDS = sys.argv[1], *map(int, sys.argv[2:])
CORE = b"core.bank.internal:8080"
GET = b"GET /balance HTTP/1.1\r\nHost: core.bank.internal\r\nConnection: close\r\n\r\n"


async def ask(source, tunnel):
    reader, writer = await asyncio.open_connection(ENDPOINT, CONNECT if tunnel else HTTP, local_addr=(source, 0), limit=4096)
    try:
        if tunnel:
            writer.write(b"CONNECT " + CORE + b" HTTP/1.1\r\nHost: " + CORE + b"\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head:
                return head.split(b"\r\n")[0].decode() + " " + (await reader.read(200)).decode().strip()
        writer.write(GET)
        answer = b""
        while data := await reader.read(4096):
            answer += data
        whole = answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"the balance is 42\n")
        return "served" if whole else answer[:200].decode(errors="replace") or "closed"
    finally:
        writer.close()


async def caller(number, results):
    source = f"100.64.{number % ADDRESSES // 200}.{number % ADDRESSES % 200 + 1}"
    for _ in range(ROUNDS):
        said, begun = [], time.monotonic()
        while len(said) < TRIES and (not said or said[-1] != "served"):
            try:
                said.append(await asyncio.wait_for(ask(source, number % 2 == 0), 120))
            except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
                said.append(type(error).__name__)
        results.append((said, time.monotonic() - begun))


async def main():
    results, begun = [], time.monotonic()
    await asyncio.gather(*(caller(number, results) for number in range(COUNT)))
    waits = sorted(wait for _, wait in results)
    failed = [said for said, _ in results if said[-1] != "served"]
    print(json.dumps({"served": len(results) - len(failed), "again": sum(len(said) > 1 for said, _ in results), "failed": failed[:5], "seconds": time.monotonic() - begun, "median": waits[len(waits) // 2], "p99": waits[len(waits) * 99 // 100]}))


resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
asyncio.run(main())
