"""Faults on the way to a backend, in a network namespace of its own: each has its status, its cause in the log and its metric, and a write that
may have been received is not sent again. Loss is a link that is down for a while: this kernel may have no netem."""

import contextlib
import http.client
import json
import os
import socket
import struct
import subprocess
import threading
import time
import urllib.request

import pytest
from conftest import LEGACY_SIM, Banyan, Process, lease_port, wait_for
from emulators import send

if os.geteuid() != 0:
    raise RuntimeError("network namespaces need root, which `make test` has")


def ip(*args, check=True):
    return subprocess.run(["ip", *args], check=check, capture_output=True, text=True)


class OnPrem:
    """The legacy airline behind a link."""

    def __init__(self):
        self.name = f"bn{os.getpid() % 10_000}"
        third = os.getpid() % 250
        self.here, self.there = f"10.199.{third}.1", f"10.199.{third}.2"
        self.near, self.far = f"{self.name}n", f"{self.name}f"
        ip("netns", "add", self.name)
        ip("link", "add", self.near, "type", "veth", "peer", "name", self.far)
        ip("link", "set", self.far, "netns", self.name)
        ip("addr", "add", f"{self.here}/30", "dev", self.near)
        ip("link", "set", self.near, "up")
        # While the link is down its route is gone: without another one, packets would go where all others go, and somebody there may answer.
        self.nowhere = f"{self.name}d"
        ip("link", "add", self.nowhere, "type", "veth", "peer", "name", f"{self.name}e")
        ip("link", "set", self.nowhere, "up")
        ip("link", "set", f"{self.name}e", "up")
        ip("route", "add", f"10.199.{third}.0/30", "dev", self.nowhere, "metric", "4096")
        self.inside("ip", "addr", "add", f"{self.there}/30", "dev", self.far)
        self.inside("ip", "link", "set", self.far, "up")
        self.inside("ip", "link", "set", "lo", "up")

    def inside(self, *command):
        return subprocess.run(["ip", "netns", "exec", self.name, *command], check=True, capture_output=True, text=True)

    def silent(self, on):
        """Nothing comes back: what is sent there arrives, and its answer does not."""
        self.inside("ip", "route", "replace" if on else "del", "blackhole", f"{self.here}/32")

    def remove(self):
        ip("netns", "del", self.name, check=False)
        ip("link", "del", self.near, check=False)
        ip("link", "del", self.nowhere, check=False)


class Legacy(Process):
    def __init__(self, folder, onprem):
        folder.mkdir(parents=True, exist_ok=True)
        self.address, self.control = f"{onprem.there}:9001", f"{onprem.there}:9003"
        command = ["ip", "netns", "exec", onprem.name, LEGACY_SIM, "--legacy", self.address, "--serverless", f"{onprem.there}:9002", "--control", self.control]
        super().__init__(command, folder, folder / "log")
        wait_for("the airline", lambda: self.ledger() is not None)

    def ledger(self):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{self.control}/ledger", timeout=2) as answer:
            return [entry["what"] for entry in json.load(answer)["entries"]]


@pytest.fixture
def onprem():
    onprem = OnPrem()
    yield onprem
    onprem.remove()


def rules(url, more="timeouts: {connect: 500ms, first_byte: 800ms, total: 6s}"):
    retry = "retry: {attempts: 2, on: [connect, timeout, 502, 503, 504]}"
    return f'version: 1\nbackends: {{b: {{urls: ["{url}"]{", tls: {ca: ca.pem}" if url.startswith("https") else ""}}}}}\nroutes: [{{id: r, match: {{prefix: /}}, legacy: b, {retry}, {more}}}]\n'


def write(banyan):
    return send(banyan.port, "POST", "/login", [("Content-Type", "application/x-www-form-urlencoded")], b"user=kim")


def told(banyan, status, cause, count=1):
    """The last failure stands in log and metric."""
    line = banyan.log_lines(count, where=lambda line: line.get("cause") == cause)[-1]
    assert line["http.response.status_code"] == status and line["route"] == "r", line
    wait_for("the metric", lambda: (banyan.metric("banyan_refused_total", cause=cause) or 0) >= count)


def test_a_black_hole_is_a_timeout_and_a_write_in_it_is_sent_once(start, onprem):
    legacy = start(Legacy, onprem)
    # On one thread: of two, the framework may not get hold of a connection that rests when its look-out is slow to let go, and makes a new one, into the hole.
    banyan = start(Banyan, rules(f"http://{legacy.address}"), settings="version: 1\nthreads: 1\n")
    assert write(banyan).status == 302 and legacy.ledger() == ["POST /login"]
    # Its line comes when the connection rests.
    banyan.log_lines(1)
    # The connection is there; the request arrives, and its answer does not.
    onprem.silent(True)
    begun = time.monotonic()
    assert write(banyan).status == 504 and time.monotonic() - begun < 3
    told(banyan, 504, "backend_timeout")
    # No connection can be made: nothing was sent, so it may be tried again, and was not received by anybody.
    assert write(banyan).status == 504
    told(banyan, 504, "connect_timeout")
    onprem.silent(False)
    wait_for("the ledger", lambda: legacy.ledger() is not None)
    assert legacy.ledger() == ["POST /login"] * 2, "the first, and the one whose answer was lost, once"
    wait_for("service", lambda: write(banyan).status == 302)


def test_a_link_that_is_down_for_a_moment_costs_time_and_no_write(start, onprem):
    legacy = start(Legacy, onprem)
    banyan = start(Banyan, rules(f"http://{legacy.address}", "timeouts: {connect: 3s, first_byte: 8s, total: 12s}"))
    assert write(banyan).status == 302
    over = threading.Event()

    def flap():
        while not over.is_set():
            ip("link", "set", onprem.near, "down")
            over.wait(0.1)
            ip("link", "set", onprem.near, "up")
            over.wait(0.4)

    flapping = threading.Thread(target=flap)
    flapping.start()
    statuses = [write(banyan).status for _ in range(6)]
    over.set()
    flapping.join()
    wait_for("the ledger", lambda: legacy.ledger() is not None)
    assert set(statuses) <= {302, 502, 504} and statuses.count(302) >= 3, statuses
    assert statuses.count(302) + 1 <= len(legacy.ledger()) <= 7, "no write twice"


class Rude:
    """Reads the request, then ends the connection in its way."""

    def __init__(self, how):
        self.server, self.seen, self.how = socket.create_server(("127.0.0.1", 0)), 0, how
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            client, _ = self.server.accept()
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with contextlib.suppress(OSError):
            data = b""
            while b"user=kim" not in data and b"GET" not in data:
                data += client.recv(4096)
            self.seen += 1
            self.how(client)


def reset(client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def half_closed(client):
    client.shutdown(socket.SHUT_WR)
    client.settimeout(5)
    while client.recv(4096):
        pass


def half_an_answer(client):
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    client.close()


@pytest.mark.parametrize("how, status, cause", [(reset, 502, "backend_broken_response"), (half_closed, 502, "backend_broken_response"), (half_an_answer, 200, "backend_broken_response")], ids=lambda it: getattr(it, "__name__", None))
def test_a_backend_that_breaks_off_has_its_cause_and_gets_a_write_once(start, how, status, cause):
    rude = Rude(how)
    banyan = start(Banyan, rules(f"http://127.0.0.1:{rude.port}"))
    if how is half_an_answer:
        with pytest.raises(http.client.IncompleteRead):
            write(banyan)
    else:
        assert write(banyan).status == status
    told(banyan, status, cause)
    assert rude.seen == 1, "a write that was received is not sent again"
    # A read is: the first time and twice more, as the rule says.
    if how is not half_an_answer:
        rude.seen = 0
        assert send(banyan.port, "GET", "/").status == status
        assert rude.seen == 3


def test_a_certificate_that_has_expired_is_refused_by_name(start, tmp_path):
    port = lease_port()
    files = tmp_path / "tls"
    files.mkdir()
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "key.pem", "-out", "ca.pem", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-not_before", "20200101000000Z", "-not_after", "20210101000000Z"], cwd=files, capture_output=True)
    if not (files / "ca.pem").exists():
        # Older openssl has no such dates; its authority has.
        subprocess.run(["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "key.pem", "-out", "req.pem", "-subj", "/CN=localhost"], cwd=files, check=True, capture_output=True)
        (files / "db").write_text("")
        (files / "serial").write_text("01\n")
        (files / "c.cnf").write_text("[ca]\ndefault_ca = d\n[d]\ndatabase = db\nserial = serial\nnew_certs_dir = .\ndefault_md = sha256\npolicy = p\nx509_extensions = e\n[p]\ncommonName = supplied\n[e]\nsubjectAltName = IP:127.0.0.1\nbasicConstraints = CA:TRUE\n")
        subprocess.run(["openssl", "ca", "-batch", "-config", "c.cnf", "-selfsign", "-keyfile", "key.pem", "-in", "req.pem", "-out", "ca.pem", "-notext", "-startdate", "20200101000000Z", "-enddate", "20210101000000Z"], cwd=files, check=True, capture_output=True)
    server = subprocess.Popen(["openssl", "s_server", "-accept", str(port), "-cert", "ca.pem", "-key", "key.pem", "-www", "-quiet"], cwd=files, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for("the server", lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        text = rules(f"https://127.0.0.1:{port}").replace("ca.pem", str(files / "ca.pem"))
        banyan = start(Banyan, text)
        assert send(banyan.port, "GET", "/").status == 502
        told(banyan, 502, "backend_tls")
    finally:
        server.kill()
        server.wait()


class Names:
    """A name server that answers, is silent, or says no."""

    def __init__(self):
        self.mode, self.asked = "no", 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.53", 53))
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            try:
                query, client = self.socket.recvfrom(2048)
            except OSError:
                return
            self.asked += 1
            if self.mode == "silent":
                continue
            question = query[12 : query.index(b"\0", 12) + 5]
            is_a = question[-4:-2] == b"\0\1"
            if self.mode == "no":
                answer = query[:2] + b"\x81\x83\0\1\0\0\0\0\0\0" + question
            elif is_a:
                answer = query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + question + b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + socket.inet_aton("127.0.0.1")
            else:
                answer = query[:2] + b"\x81\x80\0\1\0\0\0\0\0\0" + question
            self.socket.sendto(answer, client)


def test_names_that_are_not_there_or_slow_hold_nobody_up(start, tmp_path):
    names = Names()
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 127.0.0.53\noptions timeout:1 attempts:1\n")
    rude = Rude(lambda client: (client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), client.close()))
    wrapper = tmp_path / "banyan"
    import conftest

    wrapper.write_text(f'#!/bin/sh\nexec unshare -m sh -c \'mount --bind {resolv} /etc/resolv.conf && exec "$0" "$@"\' {conftest.BANYAN} "$@"\n')
    wrapper.chmod(0o755)
    text = f"""
version: 1
backends: {{named: {{urls: ["http://core.bank.test:{rude.port}"]}}, plain: {{urls: ["http://127.0.0.1:{rude.port}"]}}}}
routes: [{{id: r, match: {{prefix: /named}}, legacy: named}}, {{id: p, match: {{prefix: /plain}}, legacy: plain}}]
"""
    original, conftest.BANYAN = conftest.BANYAN, wrapper
    try:
        banyan = start(Banyan, text)
    finally:
        conftest.BANYAN = original
    assert send(banyan.port, "GET", "/plain").status == 200
    answer = send(banyan.port, "GET", "/named")
    assert answer.status == 503
    told(banyan, 503, "no_healthy_address")
    names.mode = "silent"
    took = []
    for _ in range(20):
        begun = time.monotonic()
        assert send(banyan.port, "GET", "/plain").status == 200
        took.append(time.monotonic() - begun)
    assert max(took) < 1, "a slow name server is not on the way of a request"
    names.mode = "yes"
    wait_for("the name", lambda: send(banyan.port, "GET", "/named").status == 200, seconds=60)
    # The last addresses serve when the name server goes away again.
    names.mode, before = "silent", names.asked
    wait_for("another question", lambda: names.asked > before, seconds=60)
    assert [send(banyan.port, "GET", "/named").status for _ in range(10)] == [200] * 10
    names.socket.close()
