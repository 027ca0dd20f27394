"""The interface endpoint of one large network and the balancer behind it, as one process: listens in the network of the functions, connects from the
balancer's address in the small one, and writes before everything else who calls and by which endpoint. Round robin over the proxies that are ready.

    python endpoint.py FUNCTIONS_NETNS BALANCER_NETNS VPCE LISTEN_ADDRESS PORT PROXY...
"""

import asyncio
import contextlib
import ctypes
import itertools
import os
import pathlib
import resource
import socket
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from proxy_header import header

CLONE_NEWNET = 0x40000000


def enter(netns):
    with open(f"/run/netns/{netns}") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {netns}")


async def is_ready(proxy):
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        reader, writer = await asyncio.wait_for(asyncio.open_connection(proxy, 9901), 1)
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: health\r\nConnection: close\r\n\r\n")
        line = await asyncio.wait_for(reader.readline(), 1)
        writer.close()
        return b" 200 " in line
    return False


class Balancer:
    def __init__(self, vpce, port, proxies):
        self.vpce, self.port, self.proxies = vpce, port, proxies
        self.healthy, self.turns = list(proxies), itertools.count()

    async def look(self):
        while True:
            ready = await asyncio.gather(*(is_ready(proxy) for proxy in self.proxies))
            self.healthy = [proxy for proxy, fine in zip(self.proxies, ready, strict=True) if fine]
            await asyncio.sleep(0.2)

    async def serve(self, reader, writer):
        with contextlib.suppress(OSError, IndexError):
            source, port = writer.get_extra_info("peername")[:2]
            proxy = self.healthy[next(self.turns) % len(self.healthy)] if self.healthy else ""
            up_reader, up_writer = await asyncio.open_connection(proxy, self.port)
            up_writer.write(header(source, port, proxy, self.port, vpce=self.vpce, padding=84))
            await asyncio.gather(self.pass_on(reader, up_writer), self.pass_on(up_reader, writer))
        writer.close()

    async def pass_on(self, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError):
            if writer.can_write_eof():
                writer.write_eof()


async def main(functions, small, vpce, address, port, *proxies):
    enter(functions)
    listening = [socket.create_server((address, number), backlog=8192, reuse_port=False) for number in (int(port), int(port) + 1)]
    enter(small)
    for server in listening:
        balancer = Balancer(vpce, server.getsockname()[1], proxies)
        asyncio.get_running_loop().create_task(balancer.look())
        await asyncio.start_server(balancer.serve, sock=server)
    print("ready", os.getpid(), flush=True)
    await asyncio.Event().wait()


# Two descriptors a caller.
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
asyncio.run(main(*sys.argv[1:]))
