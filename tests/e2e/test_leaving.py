"""Drains and upgrades under load: nobody's request fails. A balancer stands in front, as one does: it looks at /readyz and passes connections on."""

import asyncio
import http.client
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request

import pytest
from conftest import BANYAN, Airline, Banyan, curl, lease_port, wait_for
from hpack import Decoder, Encoder

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "conformance"))

import frames  # noqa: E402

ROUNDS = int(os.environ.get("BANYAN_ROUNDS", "50"))


class Balancer:
    """Passes each connection to a backend that was ready at the last look; looks every 20 ms."""

    def __init__(self):
        self.port = lease_port()
        self.backends = {}
        self.ready = []
        self.over = False
        self.loop = asyncio.new_event_loop()
        started = threading.Event()
        threading.Thread(target=self._run, args=(started,), daemon=True).start()
        started.wait(5)

    def _run(self, started):
        asyncio.set_event_loop(self.loop)
        self.server = self.loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=512))
        self.loop.create_task(self._look())
        started.set()
        self.loop.run_forever()

    async def _look(self):
        while not self.over:
            ready = []
            for port, admin in list(self.backends.items()):
                try:
                    answer = await self.loop.run_in_executor(None, lambda: urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=1).status)
                    ready += [port] if answer == 200 else []
                except OSError:
                    pass
            self.ready = ready
            await asyncio.sleep(0.02)  # how often it looks

    async def _serve(self, reader, writer):
        if not self.ready:
            return writer.close()
        self.turn = getattr(self, "turn", 0) + 1
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.ready[self.turn % len(self.ready)])
        except OSError:
            return writer.close()

        async def pump(source, sink):
            try:
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            except OSError:
                pass
            finally:
                try:
                    sink.close()
                except OSError:
                    pass

        await asyncio.gather(pump(reader, back), pump(there, writer))


class Http2:
    """A client that heeds GOAWAY, frame by frame: libraries for Python take the first of the two for the end."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=15)
        self.encoder, self.decoder, self.stream, self.buffer = Encoder(), Decoder(), -1, b""
        self.socket.sendall(frames.PREFACE + frames.frame(frames.SETTINGS, 0, 0))
        self.told_to_go = False

    def get(self, path):
        """(status, body); status None: not processed, by the server's own word."""
        self.stream += 2
        block = self.encoder.encode([(":method", "GET"), (":path", path), (":authority", "h"), (":scheme", "http")])
        self.socket.sendall(frames.headers_frames(block, frames.END_STREAM, self.stream))
        status, body = 0, b""
        while True:
            kind, flags, stream, payload = self._frame()
            if kind == frames.SETTINGS and not flags & 1:
                self.socket.sendall(frames.frame(frames.SETTINGS, 1, 0))
            elif kind == frames.PING and not flags & 1:
                self.socket.sendall(frames.frame(frames.PING, 1, 0, payload))
            elif kind == frames.GOAWAY:
                self.told_to_go = True
                if int.from_bytes(payload[:4], "big") & 0x7FFFFFFF < self.stream:
                    return None, b""
            elif kind == frames.RST_STREAM and stream == self.stream:
                raise ConnectionResetError("the stream was reset")
            elif kind == frames.HEADERS and stream == self.stream:
                status = int(dict(self.decoder.decode(payload))[":status"])
            elif kind == frames.DATA and stream == self.stream:
                body += payload
                if payload:
                    self.socket.sendall(b"".join(frames.frame(frames.WINDOW_UPDATE, 0, it, len(payload).to_bytes(4, "big")) for it in (0, stream)))
            if kind in (frames.HEADERS, frames.DATA) and stream == self.stream and flags & frames.END_STREAM:
                return status, body

    def _frame(self):
        while len(self.buffer) < 9 or len(self.buffer) < 9 + int.from_bytes(self.buffer[:3], "big"):
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionResetError("closed before the answer")
            self.buffer += data
        size = 9 + int.from_bytes(self.buffer[:3], "big")
        one, self.buffer = self.buffer[:size], self.buffer[size:]
        return one[3], one[4], int.from_bytes(one[5:9], "big") & 0x7FFFFFFF, one[9:]


class Load:
    """Clients that keep their connections, retry nothing, and check every answer."""

    def __init__(self, port, h2_port=None, tls=None):
        self.port, self.h2_port, self.tls = port, h2_port, tls
        self.over, self.done, self.failed = threading.Event(), 0, []
        self.threads = [threading.Thread(target=self._http1, args=(n,), daemon=True) for n in range(6)]
        if h2_port:
            self.threads += [threading.Thread(target=self._http2, daemon=True) for _ in range(2)]
        [thread.start() for thread in self.threads]

    def _connect(self, number):
        if self.tls and number % 3:
            port, context = self.tls
            return http.client.HTTPSConnection("127.0.0.1", port, timeout=15, context=context)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)

    def _http1(self, number):
        connection, count = None, 0
        while not self.over.is_set():
            count += 1
            body = b"x" * (count % 5 * 1000) if number % 2 else None
            try:
                connection = connection or self._connect(number)
                connection.request("POST" if body is not None else "GET", f"/whoami?n={number}-{count}", body)
                answer = connection.getresponse()
                text = answer.read()
                if answer.status != 200 or f"n={number}-{count}".encode() not in text:
                    self.failed.append((number, count, answer.status, text[:200]))
                if answer.getheader("connection", "").lower() == "close":
                    connection.close()
                    connection = None
                self.done += 1
            except (OSError, http.client.HTTPException) as error:
                self.failed.append((number, count, repr(error)))
                connection = None
            time.sleep(0.003)  # the pace of a client

    def _http2(self):
        """One stream after the other. What a GOAWAY leaves out was not processed, so it is asked for again; nothing else is."""
        connection, count = None, 0
        while not self.over.is_set():
            count += 1
            try:
                connection = connection or Http2(self.h2_port)
                status, text = connection.get(f"/whoami?n={count}")
                if status is None:
                    connection, count = None, count - 1
                    continue
                if status != 200 or f"n={count}".encode() not in text:
                    self.failed.append(("h2", count, status, text[:200]))
                if connection.told_to_go:
                    connection = None
                self.done += 1
            except OSError as error:
                self.failed.append(("h2", count, repr(error)))
                connection = None
            time.sleep(0.003)  # the pace of a client

    def end(self):
        self.over.set()
        [thread.join(30) for thread in self.threads]
        return self.done, self.failed


def rules(airline):
    return f'version: 1\ndefaults: {{legacy: l}}\nbackends: {{l: {{urls: ["http://127.0.0.1:{airline.legacy}"]}}}}\n'


SETTINGS = "version: 1\nthreads: 2\ndrain: {{delay: 150ms, deadline: 20s}}\nlisteners:\n  - {{name: plain, address: '127.0.0.1:{port}'}}\n  - {{name: h2c, address: '127.0.0.1:{h2}', h2c: true}}\n"


def test_drains_under_load_fail_nobody(start):
    airline = start(Airline)
    balancer, balancer_h2 = Balancer(), Balancer()

    def proxy():
        port, h2 = lease_port(), lease_port()
        banyan = start(Banyan, rules(airline), settings=SETTINGS.format(port=port, h2=h2), listen=False)
        balancer.backends[port] = balancer_h2.backends[h2] = banyan.admin
        wait_for("the balancer to see it", lambda: port in balancer.ready and h2 in balancer_h2.ready)
        return banyan, port, h2

    running = [proxy(), proxy()]
    load = Load(balancer.port, balancer_h2.port)
    wait_for("load", lambda: load.done > 200)
    took = []
    for _ in range(ROUNDS):
        running.append(proxy())
        banyan, port, h2 = running.pop(0)
        begun = time.monotonic()
        banyan.popen.send_signal(signal.SIGTERM)
        banyan.popen.wait(25)
        took.append(time.monotonic() - begun)
        del balancer.backends[port], balancer_h2.backends[h2]
        assert banyan.popen.returncode == 0 and "cut" not in banyan.text(), banyan.text()[-500:]
    done, failed = load.end()
    balancer.over = balancer_h2.over = True
    assert failed == [], (len(failed), done, failed[:5])
    assert max(took) < 15, took
    print(f"{ROUNDS} drains, {done} requests, 0 failed; {sorted(took)[len(took) // 2]:.2f} s a drain in the middle, {max(took):.2f} s at most")


def test_int_hurries_a_drain(start):
    airline = start(Airline)
    airline.faults("legacy", {"prefix": "/slow", "delay_ms": 15000})
    banyan = start(Banyan, rules(airline), settings="version: 1\ndrain: {delay: 10ms, deadline: 60s}\n")
    slow = threading.Thread(target=lambda: curl(banyan.url + "/slow", check=False), daemon=True)
    slow.start()
    wait_for("it is in flight", lambda: banyan.metric("banyan_requests_in_flight") == 1)
    banyan.popen.send_signal(signal.SIGTERM)
    wait_for("the drain", lambda: "draining" in banyan.text())
    time.sleep(0.5)  # the drain is under way, and would take 15 s
    assert banyan.popen.poll() is None
    banyan.popen.send_signal(signal.SIGINT)
    banyan.popen.wait(5)


def successor(banyan, before):
    """The process that answers as admin now, when it is another than before."""
    found = subprocess.run(["pgrep", "-f", str(banyan.folder / "settings.yaml")], capture_output=True, text=True).stdout.split()
    return next((int(pid) for pid in found if int(pid) not in before), None)


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def upgradeable(start, tmp_path, certificates):
    """A proxy whose binary can be replaced; what it has begotten ends with the test."""
    airline = start(Airline)
    binary = tmp_path / "banyan"
    shutil.copy2(BANYAN, binary)
    port, h2, tls = lease_port(), lease_port(), lease_port()
    more = f"  - {{name: tls, address: '127.0.0.1:{tls}', tls: {{cert: {certificates}/server.pem, key: {certificates}/server.key}}, h2: true}}\n"
    # What systemd would listen at.
    notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notices.bind(str(tmp_path / "notify"))
    import conftest

    original, conftest.BANYAN = conftest.BANYAN, binary
    try:
        banyan = start(Banyan, rules(airline), settings=SETTINGS.format(port=port, h2=h2) + more, listen=False, env={"NOTIFY_SOCKET": str(tmp_path / "notify")})
    finally:
        conftest.BANYAN = original
    banyan.notices, banyan.tls = notices, (tls, ssl.create_default_context(cafile=certificates / "ca.pem"))
    yield banyan, binary, port, h2
    notices.close()
    subprocess.run(["pkill", "-KILL", "-f", str(banyan.folder / "settings.yaml")], check=False)


def test_upgrades_under_load_fail_nobody(upgradeable):
    banyan, binary, port, h2 = upgradeable
    load = Load(port, h2, banyan.tls)
    wait_for("load", lambda: load.done > 200)
    pid, seen = banyan.popen.pid, [banyan.popen.pid]
    for number in range(ROUNDS):
        # As a package manager does it: a new file in the old one's place.
        beside = binary.with_suffix(".new")
        shutil.copy2(BANYAN, beside)
        beside.rename(binary)
        os.kill(pid, signal.SIGQUIT)
        successor_pid = wait_for("a successor", lambda: successor(banyan, seen), seconds=20)
        seen.append(successor_pid)
        if number == 0:
            wait_for("its end", lambda: banyan.popen.poll() is not None, seconds=30)
            assert banyan.popen.returncode == 0, banyan.text()[-500:]
        wait_for("the end of the old one", lambda: not is_alive(pid), seconds=30)
        pid = successor_pid
    done, failed = load.end()
    assert failed == [], (len(failed), done, failed[:5])
    # What the first one knew, the last one knows.
    assert banyan.api("/api/v1/revision")[1]["draining"] is False
    print(f"{ROUNDS} upgrades, {done} requests, 0 failed")


def told(banyan):
    """Every line that systemd would have been told so far."""
    lines = []
    banyan.notices.setblocking(False)
    try:
        while True:
            lines += banyan.notices.recv(4096).decode().split()
    except BlockingIOError:
        return lines


def test_systemd_is_told_who_serves(upgradeable):
    banyan, *_ = upgradeable
    assert told(banyan) == [f"MAINPID={banyan.popen.pid}", "READY=1"]
    os.kill(banyan.popen.pid, signal.SIGQUIT)
    successor_pid = wait_for("a successor", lambda: successor(banyan, [banyan.popen.pid]), seconds=20)
    banyan.popen.wait(30)
    lines = told(banyan)
    # The unit has another main process, and is not stopping.
    assert f"MAINPID={successor_pid}" in lines and "READY=1" in lines and "STOPPING=1" not in lines, lines
    os.kill(successor_pid, signal.SIGTERM)
    wait_for("its end", lambda: not is_alive(successor_pid), seconds=30)
    assert "STOPPING=1" in told(banyan)


def test_a_way_back_does_not_wait_for_a_successor(upgradeable):
    banyan, binary, *_ = upgradeable
    text = (banyan.rules / "rules.yaml").read_text()
    ramp = "routes: [{id: r, match: {prefix: /r}, legacy: l, serverless: s, stage: ramp, ramp: {steps: [5%, 100%]}}]\n"
    banyan.write_rules(text.replace("{l: {", "{s: {urls: ['http://127.0.0.1:9']}, l: {") + ramp)
    wait_for("the rules", lambda: banyan.api("/api/v1/routes/r", check=False)[0] == 200)
    kills = lambda: banyan.api("/api/v1/revision")[1]["kill"]  # noqa: E731
    binary.unlink()
    # It never says a word.
    binary.write_text("#!/bin/sh\nexec sleep 100\n")
    binary.chmod(0o755)
    os.kill(banyan.popen.pid, signal.SIGQUIT)
    wait_for("it to be started", lambda: "starting a successor" in banyan.text())
    (banyan.state / "KILL").touch()
    wait_for("a kill by file", lambda: kills() == ["all"], seconds=3)
    (banyan.state / "KILL").unlink()
    wait_for("its end", lambda: kills() == [], seconds=3)
    assert banyan.api("/api/v1/kill", "POST", {"reason": "test"})[1]["kept"] is False and kills() == ["all"]
    assert banyan.api("/api/v1/routes/r/hold", "POST", {"reason": "test"}, check=False)[0] == 503
    assert "is ended" not in banyan.text()
    # What has to be kept ends it.
    assert banyan.api("/api/v1/routes/r/rollback", "POST", {"reason": "test"})[1]["kept"] is True
    assert "the successor that was being started is ended" in banyan.text()
    assert [entry["action"] for entry in banyan.api("/api/v1/audit")[1]["entries"]][-1] == "rollback"
    # Nor does an end.
    os.kill(banyan.popen.pid, signal.SIGQUIT)
    wait_for("another one", lambda: banyan.text().count("starting a successor") == 2)
    banyan.popen.send_signal(signal.SIGTERM)
    assert banyan.popen.wait(20) == 0


def test_a_successor_that_does_not_start_leaves_the_old_one_serving(upgradeable):
    banyan, binary, port, h2 = upgradeable
    load = Load(port, h2)
    wait_for("load", lambda: load.done > 100)
    good = binary.read_bytes()

    def attempt(text):
        before = banyan.text().count("no successor")
        os.kill(banyan.popen.pid, signal.SIGQUIT)
        wait_for("the refusal", lambda: banyan.text().count("no successor") > before, seconds=20)
        assert text in banyan.text(), banyan.text()[-800:]
        assert banyan.popen.poll() is None and banyan.ready()
        # Changes are possible again: the file is its own again.
        status, answer = banyan.api("/api/v1/kill", "POST", {"reason": "test"})
        assert status == 200
        banyan.api("/api/v1/unkill", "POST", {"reason": "test"})

    # A file that is no program, one that ends at once, one that says the wrong thing, and rules that are refused.
    binary.unlink()
    binary.write_text("nothing that could run")
    binary.chmod(0o755)
    attempt("cannot be started")
    binary.write_text("#!/bin/sh\nexit 3\n")
    attempt("ended before it was ready")
    binary.write_text("#!/bin/sh\nprintf 'surely' >&0\nexec sleep 30\n")
    attempt("says something else")
    binary.unlink()
    binary.write_bytes(good)
    binary.chmod(0o755)
    rule = banyan.rules / "rules.yaml"
    text = rule.read_text()
    rule.write_text("version: 1\nroutes: [{")
    wait_for("the refusal of the rules", lambda: banyan.metric("banyan_config_last_reload_successful") == 0)
    attempt("ended before it was ready")
    rule.write_text(text)
    wait_for("the rules", lambda: banyan.metric("banyan_config_last_reload_successful") == 1)
    # And then one that does.
    os.kill(banyan.popen.pid, signal.SIGQUIT)
    wait_for("a successor", lambda: "the successor serves" in banyan.text(), seconds=20)
    banyan.popen.wait(30)
    done, failed = load.end()
    assert failed == [], (len(failed), done, failed[:5])
    assert len(banyan.api("/api/v1/audit")[1]["entries"]) == 8, "four kills, lifted four times"
