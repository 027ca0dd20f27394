"""A server that keeps every byte it is sent, and answers each request a strict reader finds with its target."""

import socket
import threading
import time

from readers import STRICT, Stuck


# Behind an answer: the connection is closed then. No byte of it is sent.
CLOSE = b"\xff(close)"


class Connection:
    def __init__(self):
        self.data = bytearray()
        self.closed = False
        # Where the case now running began.
        self.mark = 0


class Origin:
    """`answer` makes the bytes of an answer from a `Seen`; None closes the connection."""

    def __init__(self):
        self.server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.server.getsockname()[1]
        self.connections = []
        self.answer = plain
        self.changed = time.monotonic()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            kept = Connection()
            self.connections.append(kept)
            threading.Thread(target=self._serve, args=(client, kept), daemon=True).start()

    def _serve(self, client, kept):
        answered = 0
        with client:
            while True:
                try:
                    chunk = client.recv(65536)
                except OSError:
                    chunk = b""
                if not chunk:
                    kept.closed = True
                    return
                kept.data += chunk
                self.changed = time.monotonic()
                seen = STRICT.read(bytes(kept.data))
                for request in seen[answered:]:
                    if isinstance(request, Stuck):
                        break
                    answered += 1
                    answer = self.answer(request)
                    try:
                        if answer is None:
                            kept.closed = True
                            return
                        client.sendall(answer.removesuffix(CLOSE))
                        if answer.endswith(CLOSE):
                            kept.closed = True
                            return
                    except OSError:
                        kept.closed = True
                        return

    def begin(self):
        """Forgets what was before; connections that rest in the proxy's pool stay."""
        self.connections = [it for it in self.connections if not it.closed]
        for kept in self.connections:
            kept.mark = len(kept.data)

    def received(self):
        """What came since, by connection: (bytes, whether the proxy has closed it)."""
        return [(bytes(it.data[it.mark :]), it.closed) for it in self.connections if len(it.data) > it.mark]

    def quiet(self, seconds=0.02, most=2):
        """Waits until nothing has come for a moment."""
        end = time.monotonic() + most
        while time.monotonic() < end and time.monotonic() - self.changed < seconds:
            time.sleep(0.005)  # the length of the quiet that is looked for


def plain(request):
    body = request.target
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nContent-Type: text/plain\r\n\r\n" % len(body)
    return head + (b"" if request.method == b"HEAD" else body)
