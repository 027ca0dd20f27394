"""Fixtures: the real binary, real nginx, the airline. Every port is leased, every process is ended, nothing sleeps for a time
where it can wait for a condition."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
PROFILE = os.environ.get("BANYAN_TEST_PROFILE", "debug")
BANYAN = TARGET / PROFILE / "banyan"
LEGACY_SIM = TARGET / PROFILE / "legacy-sim"


def wait_for(what, condition, seconds=15):
    """Polls until the condition gives something true; fails naming what was waited for."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        result = condition()
        if result:
            return result
        time.sleep(0.01)
    raise AssertionError(f"waited {seconds} s for {what}")


_leased = set()


def lease_port():
    while True:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        if port not in _leased:
            _leased.add(port)
            return port


def is_open(port):
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


def curl(*args, check=True):
    """(status, headers as a list of (lower-case name, value), body) of one request by curl."""
    out = subprocess.run(["curl", "-sS", "-i", "--max-time", "20", "--raw", *args], capture_output=True, timeout=30)
    if check and out.returncode != 0:
        raise AssertionError(f"curl {args}: {out.returncode} {out.stderr.decode()}")
    raw = out.stdout
    while True:
        head, _, body = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split()[1]) if len(lines[0].split()) > 1 else 0
        if status != 100:
            break
        raw = body
    headers = [(n.lower(), v.strip()) for n, _, v in (line.partition(":") for line in lines[1:])]
    return status, headers, body


def header(headers, name):
    return next((v for n, v in headers if n == name), None)


class Process:
    end_signal = signal.SIGKILL

    def __init__(self, args, cwd, log, **kw):
        self.log_path = pathlib.Path(log)
        self.log = open(log, "wb")
        self.popen = subprocess.Popen([str(a) for a in args], cwd=cwd, stderr=self.log, stdout=kw.pop("stdout", self.log), **kw)

    def stop(self, sig=signal.SIGTERM, seconds=20):
        if self.popen.poll() is None:
            self.popen.send_signal(sig)
            try:
                self.popen.wait(seconds)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
                raise AssertionError(f"did not end {seconds} s after {sig}: {self.text()[-2000:]}")
        self.log.close()
        return self.popen.returncode

    def text(self):
        return self.log_path.read_text(errors="replace")

    def rss_kib(self):
        for line in pathlib.Path(f"/proc/{self.popen.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        return 0


class Nginx(Process):
    """Real nginx with the given `server` blocks. `{port}` in them is leased per name."""

    end_signal = signal.SIGTERM

    def __init__(self, folder, servers, **ports):
        folder.mkdir(parents=True, exist_ok=True)
        temp = "\n".join(f"{n}_temp_path {folder}/{n};" for n in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
        user = "user root;" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(
            f"{user} worker_processes 1; daemon off; error_log {folder}/error.log; pid {folder}/pid;\n"
            f"events {{ worker_connections 4096; }}\n"
            f"http {{ access_log off; client_max_body_size 0; keepalive_requests 1000000; {temp}\n{servers}\n}}\n"
        )
        super().__init__(["nginx", "-c", folder / "nginx.conf"], folder, folder / "out.log")
        for port in ports.values():
            wait_for(f"nginx on {port}: {self.text()}", lambda: is_open(port))


class Banyan(Process):
    """The real binary. `rules` is YAML text or a map of file names to texts; `settings` is YAML text."""

    def __init__(self, folder, rules, settings="version: 1\nattribution_header: true\n", listen=True, args=(), wait=True, env=None):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.rules = folder / "rules"
        self.state = folder / "state"
        self.rules.mkdir(exist_ok=True)
        for name, text in (rules if isinstance(rules, dict) else {"rules.yaml": rules}).items():
            (self.rules / name).write_text(text)
        self.port, self.admin = lease_port(), lease_port()
        (folder / "settings.yaml").write_text(settings)
        command = [BANYAN, "run", "--rules", self.rules, "--settings", folder / "settings.yaml"]
        if "--admin" not in args:
            command += ["--admin", f"127.0.0.1:{self.admin}"]
        if "--state" not in args:
            command += ["--state", self.state]
        if listen:
            command += ["--listen", f"127.0.0.1:{self.port}"]
        self.access_path = folder / "access.log"
        self.access = open(self.access_path, "wb")
        super().__init__([*command, *args], folder, folder / "log", stdout=self.access, env={**os.environ, **(env or {})})
        if wait:
            try:
                wait_for("readiness", lambda: self.ready() or self.popen.poll() is not None)
                assert self.popen.poll() is None
            except AssertionError:
                self.stop(signal.SIGKILL)
                raise AssertionError(f"not ready:\n{self.text()}\n{self.access_path.read_text()}") from None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def ready(self):
        with contextlib.suppress(OSError):
            return self.api("/readyz", check=False)[0] == 200
        return False

    def api(self, path, method="GET", body=None, headers=None, check=True):
        data = None if body is None else json.dumps(body).encode()
        all_headers = {"Content-Type": "application/json"} if body is not None else {}
        all_headers.update(headers or {})
        request = urllib.request.Request(f"http://127.0.0.1:{self.admin}{path}", data=data, method=method, headers=all_headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                status, text = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read().decode()
        if check:
            assert status == 200, (status, text)
        return status, (json.loads(text) if text.startswith(("{", "[")) else text)

    def metric(self, name, **labels):
        """The sum of a metric's series that have these labels."""
        total, found = 0.0, False
        for line in self.api("/metrics")[1].splitlines():
            if line.startswith(name + "{") or line.startswith(name + " "):
                if all(f'{key}="{value}"' in line for key, value in labels.items()):
                    total, found = total + float(line.rsplit(" ", 1)[1]), True
        return total if found else None

    def counts(self, expected, name, **labels):
        """Waits for a metric to be `expected`: requests are counted after the client has its answer."""
        wait_for(f"{name}{labels} to be {expected}", lambda: (self.metric(name, **labels) or 0) == expected)

    def revision(self):
        return self.api("/api/v1/revision")[1]["revision"]

    def write_rules(self, text, name="rules.yaml"):
        """As a deployment does it: a new file beside, then a rename."""
        beside = self.rules / f".{name}.new"
        beside.write_text(text)
        beside.rename(self.rules / name)

    def log_lines(self, count=None, where=lambda line: True):
        def lines():
            found = [json.loads(line) for line in self.access_path.read_text().splitlines() if line]
            # Workers write apart from each other.
            found = sorted((line for line in found if where(line)), key=lambda line: line.get("time", 0))
            return found if count is None or len(found) >= count else None

        return wait_for(f"{count} access log lines", lines)

    def cli(self, *args):
        command = [BANYAN, *args, "--admin", f"http://127.0.0.1:{self.admin}"]
        return subprocess.run([str(a) for a in command], capture_output=True, text=True, timeout=60)


class Again(Banyan):
    """The process of `before` once more, in its folder, after it was ended."""

    def __init__(self, folder, before, number=1):
        self.folder, self.rules, self.state, self.port, self.admin = before.folder, before.rules, before.state, before.port, before.admin
        self.access_path, self.access = before.access_path, open(before.access_path, "ab")
        Process.__init__(self, before.popen.args, before.folder, before.folder / f"log-{number}", stdout=self.access)
        wait_for("readiness", self.ready)


def starter(folder):
    """Starts processes that end together, the last one first."""
    running = []

    def begin(kind, *args, **kw):
        process = kind(folder / f"{kind.__name__.lower()}-{len(running)}", *args, **kw)
        running.append(process)
        return process

    yield begin
    for process in reversed(running):
        with contextlib.suppress(AssertionError):
            process.stop(process.end_signal)


@pytest.fixture
def start(tmp_path):
    """Starts processes that end with the test: `start(Banyan, ...)`, in the order given."""
    yield from starter(tmp_path)


@pytest.fixture(scope="module")
def start_once(tmp_path_factory):
    """The same for a whole module."""
    yield from starter(tmp_path_factory.mktemp("module"))


class Airline(Process):
    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.legacy, self.serverless, self.control = lease_port(), lease_port(), lease_port()
        ports = {"--legacy": self.legacy, "--serverless": self.serverless, "--control": self.control}
        args = [item for name, port in ports.items() for item in (name, f"127.0.0.1:{port}")]
        super().__init__([LEGACY_SIM, *args], folder, folder / "log")
        for port in ports.values():
            wait_for(f"airline on {port}", lambda: is_open(port))

    def faults(self, side, *faults):
        request = urllib.request.Request(f"http://127.0.0.1:{self.control}/faults/{side}", data=json.dumps(faults).encode(), method="PUT")
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200

    def ledger(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.control}/ledger", timeout=10) as answer:
            return json.load(answer)

    def rules(self):
        text = (ROOT / "routes/rules/airline.yaml").read_text()
        text = text.replace("127.0.0.1:9001", f"127.0.0.1:{self.legacy}").replace("127.0.0.1:9002", f"127.0.0.1:{self.serverless}")
        return text


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """A CA, a server certificate for localhost and 127.0.0.1, and a client certificate, by openssl."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*args):
        subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)

    (folder / "san.cnf").write_text("subjectAltName=DNS:localhost,DNS:shop.example.com,IP:127.0.0.1\n")
    (folder / "client.cnf").write_text("extendedKeyUsage=clientAuth\n")
    (folder / "ca.cnf").write_text("basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign,cRLSign\n")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=Test CA")
    for name, extensions in [("server", ["-extfile", "san.cnf"]), ("client", ["-extfile", "client.cnf"])]:
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", f"{name}.pem", "-days", "2", *extensions)
    return folder


def needs(tool):
    """Tools are installed by `make test`; one that is missing is an error, not a reason to skip."""
    assert shutil.which(tool), f"{tool} is not installed; run `make deps`"
