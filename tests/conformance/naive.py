"""A deliberately naive proxy: the positive control. It passes heads on as they are, believes the first length or anything that
looks like chunks, and keeps connections to the backend. The runner must find it wanting."""

import contextlib
import re
import socket
import threading


class Naive:
    def __init__(self, backend):
        self.backend = backend
        self.pool = []
        self.server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def forget(self):
        """A pool without what has been put into it."""
        for upstream, _ in self.pool:
            upstream.close()
        self.pool = []

    def _accept(self):
        while True:
            client, _ = self.server.accept()
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _upstream(self):
        while self.pool:
            upstream, left = self.pool.pop()
            upstream.setblocking(False)
            try:
                if upstream.recv(1, socket.MSG_PEEK) == b"":
                    continue
            except BlockingIOError:
                pass
            except OSError:
                continue
            upstream.setblocking(True)
            return upstream, left
        return socket.create_connection(("127.0.0.1", self.backend)), b""

    def _serve(self, client):
        client.settimeout(1)
        data = b""
        with client, contextlib.suppress(OSError, ValueError):
            while True:
                while b"\r\n\r\n" not in data:
                    chunk = client.recv(65536)
                    if not chunk:
                        return
                    data += chunk
                head, _, data = data.partition(b"\r\n\r\n")
                body = b""
                length = re.search(rb"(?im)^content-length:\s*(\d+)", head)
                if re.search(rb"(?im)^transfer-encoding:.*chunked", head):
                    while b"0\r\n\r\n" not in data:
                        chunk = client.recv(65536)
                        if not chunk:
                            return
                        data += chunk
                    body, end, data = data.partition(b"0\r\n\r\n")
                    body += end
                elif length:
                    size = int(length[1])
                    while len(data) < size:
                        chunk = client.recv(65536)
                        if not chunk:
                            return
                        data += chunk
                    body, data = data[:size], data[size:]
                upstream, answer = self._upstream()
                upstream.settimeout(0.5)
                upstream.sendall(head + b"\r\n\r\n" + body)
                while b"\r\n\r\n" not in answer:
                    chunk = upstream.recv(65536)
                    if not chunk:
                        return
                    answer += chunk
                top, _, rest = answer.partition(b"\r\n\r\n")
                found = re.search(rb"(?im)^content-length:\s*(\d+)", top)
                size = int(found[1]) if found and not head.startswith(b"HEAD") else 0
                while len(rest) < size:
                    rest += upstream.recv(65536)
                client.sendall(top + b"\r\n\r\n" + rest[:size])
                self.pool.append((upstream, rest[size:]))
