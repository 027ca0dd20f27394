"""Many slow clients from one process: `slow.py PORT HEADS BODIES SECONDS`. Prints JSON: how long each was kept before the other side ended it."""

import json
import random
import selectors
import socket
import sys
import time

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "
BODY = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"


def main(port, heads, bodies, seconds):
    selector, clients, ended, failed = selectors.DefaultSelector(), {}, {"head": [], "body": []}, 0
    kinds = ["head"] * heads + ["body"] * bodies
    random.shuffle(kinds)
    for number, kind in enumerate(kinds):
        client = socket.socket()
        try:
            client.connect(("127.0.0.1", port))
            client.setblocking(False)
            client.send(HEAD if kind == "head" else BODY)
        except OSError:
            failed += 1
            continue
        selector.register(client, selectors.EVENT_READ)
        clients[client] = (kind, time.monotonic(), time.monotonic() + random.random() * 2)
        if number % 200 == 0:
            time.sleep(0.005)  # clients come one after the other
    print("connected", len(clients), flush=True)
    end = time.monotonic() + seconds
    while clients and time.monotonic() < end:
        now = time.monotonic()
        for key, _ in selector.select(0.05):
            client = key.fileobj
            kind, begun, _ = clients[client]
            try:
                data = client.recv(4096)
            except OSError:
                data = b""
            if not data:
                ended[kind].append(time.monotonic() - begun)
                selector.unregister(client)
                client.close()
                del clients[client]
        for client, (kind, begun, due) in list(clients.items()):
            if due < now:
                try:
                    client.send(b"x")
                except OSError:
                    pass
                clients[client] = (kind, begun, now + 2)
    print(json.dumps({"connected": heads + bodies - failed, "failed": failed, "left": len(clients), "ended": {kind: [min(took), max(took), len(took)] if took else [] for kind, took in ended.items()}}), flush=True)


main(*map(int, sys.argv[1:]))
