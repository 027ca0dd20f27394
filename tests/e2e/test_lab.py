"""The encapsulation, on one machine: two large networks of functions with the same addresses, a small network of a /28 with two proxies, and on-prem, which
has a route to the /28 and to nothing else. Who calls is told by PROXY headers, as a network load balancer writes them; who counts connections is the
kernel on the on-prem side."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import BANYAN, ROOT, Process, wait_for
from test_connections import Watch

if os.geteuid() != 0:
    raise RuntimeError("network namespaces need root, which `make test` has")

LAB, ENDS = ROOT / "tests/lab", ("vpce-0123456789abcdef0", "vpce-0fedcba9876543210")
PROXIES = {"p1": ("10.1.2.6", "10.1.2.7"), "p2": ("10.1.2.8", "10.1.2.9")}
# On-prem takes 60: each proxy has half of them, for tunnels and requests together.
CAP = 30


def run(*command, check=True):
    return subprocess.run([str(part) for part in command], check=check, capture_output=True, text=True)


class Lab:
    """Namespaces named after this process; everything in them ends with them."""

    def __init__(self):
        self.names = {name: f"lab{os.getpid() % 100_000}-{name}" for name in ("fn1", "fn2", "switch", "nlb", "p1", "p2", "onprem")}
        for name in self.names.values():
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        # The small network: one switch, which is also the way on-prem.
        self.ip("switch", "link", "add", "br0", "type", "bridge")
        self.ip("switch", "addr", "add", "10.1.2.14/28", "dev", "br0")
        self.ip("switch", "link", "set", "br0", "up")
        for name, addresses in {"nlb": ("10.1.2.4",), **PROXIES}.items():
            self.wire(name, "switch", f"to-{name}")
            self.ip("switch", "link", "set", f"to-{name}", "master", "br0")
            for address in addresses:
                self.ip(name, "addr", "add", f"{address}/28", "dev", "eth0")
            self.ip(name, "route", "add", "default", "via", "10.1.2.14")
        self.wire("onprem", "switch", "to-onprem")
        self.ip("switch", "addr", "add", "10.9.0.1/24", "dev", "to-onprem")
        self.inside("switch", "sysctl", "-qw", "net.ipv4.ip_forward=1")
        self.ip("onprem", "addr", "add", "10.9.0.10/24", "dev", "eth0")
        self.ip("onprem", "route", "add", "10.1.2.0/28", "via", "10.9.0.1")
        # Large networks: hundreds of addresses each, and the same in both. Nothing leads out of them but the endpoint.
        for name in ("fn1", "fn2"):
            batch = "".join(f"addr add 100.64.{third}.{fourth}/10 dev lo\n" for third in range(2) for fourth in range(1, 201)) + "addr add 100.127.255.254/10 dev lo\n"
            subprocess.run(["ip", "-n", self.names[name], "-batch", "-"], input=batch, text=True, check=True)

    def wire(self, name, other, far):
        run("ip", "link", "add", "eth0", "netns", self.names[name], "type", "veth", "peer", "name", far, "netns", self.names[other])
        self.ip(name, "link", "set", "eth0", "up")
        self.ip(other, "link", "set", far, "up")

    def ip(self, name, *args):
        return run("ip", "-n", self.names[name], *args)

    def inside(self, name, *command, check=True):
        return run("ip", "netns", "exec", self.names[name], *command, check=check)

    def remove(self):
        for name in self.names.values():
            run("ip", "netns", "del", name, check=False)


class Inside(Process):
    """Any command in one of the lab's networks."""

    def __init__(self, folder, lab, name, *command):
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(["ip", "netns", "exec", lab.names[name], *command], folder, folder / "log")


class Onprem(Inside):
    """nginx, which writes down who asked, in front of a system that takes its time."""

    end_signal = signal.SIGTERM

    def __init__(self, folder, lab):
        folder.mkdir(parents=True, exist_ok=True)
        temp = "".join(f"{n}_temp_path {folder}/{n}; " for n in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
        self.seen = folder / "seen"
        (folder / "nginx.conf").write_text(
            f"user root; worker_processes 1; daemon off; error_log {folder}/error.log; pid {folder}/pid; events {{ worker_connections 4096; }}\n"
            f"http {{ log_format who '$remote_addr'; access_log {self.seen} who; {temp} keepalive_requests 100000;\n"
            f"upstream core {{ server 127.0.0.1:8081; keepalive 100; }}\n"
            f"server {{ listen 10.9.0.10:8080 backlog=4096; location / {{ proxy_pass http://core; proxy_http_version 1.1; proxy_set_header Connection ''; }} }} }}\n"
        )
        super().__init__(folder, lab, "onprem", "nginx", "-c", folder / "nginx.conf")
        wait_for("on-prem", lambda: lab.inside("onprem", "curl", "-sf", "http://10.9.0.10:8080/balance", check=False).returncode == 0)
        self.seen.write_text("")


class Proxy(Inside):
    def __init__(self, folder, lab, name, endpoints):
        folder.mkdir(parents=True, exist_ok=True)
        self.lab, self.name, self.rules = lab, name, folder / "rules"
        self.rules.mkdir()
        self.write(endpoints)
        (folder / "settings.yaml").write_text("""version: 1
listeners:
  - {name: onprem, address: "0.0.0.0:9443", mode: connect, proxy_protocol: {from: [10.1.2.4/32]}}
  - {name: web, address: "0.0.0.0:9444", proxy_protocol: {from: [10.1.2.4/32]}}
resolvers: [{zones: [bank.internal], servers: [10.9.0.10]}]
logs: {sample: 1%}
""")
        super().__init__(folder, lab, name, BANYAN, "run", "--settings", folder / "settings.yaml", "--rules", self.rules, "--state", folder / "state", "--admin", "0.0.0.0:9901")
        wait_for(f"{name}: {self.text()}", lambda: lab.inside(name, BANYAN, "healthcheck", check=False).returncode == 0)

    def write(self, endpoints):
        bind, cap = ", ".join(PROXIES[self.name]), f"{{max: {CAP}, queue: 6000, queue_wait: 100s, pool: core}}"
        callers = f"callers: {{vpce: [{', '.join(endpoints)}], cidr: [100.64.0.0/10]}}"
        text = f"""version: 1
backends: {{core: {{urls: ["http://core.bank.internal:8080"], bind: [{bind}], connections: {cap}}}}}
routes: [{{id: core, match: {{host: core.bank.internal, prefix: /, listener: web}}, legacy: core, timeouts: {{first_byte: 100s, total: 110s}}}}]
egress:
  - {{id: core, listener: onprem, {callers}, to: {{host: core.bank.internal, ports: [8080]}}, via: {{bind: [{bind}], connections: {cap}}}}}
  - {{id: web, listener: web, {callers}, to: {{host: core.bank.internal, ports: [8080]}}}}
"""
        beside = self.rules / ".new"
        beside.write_text(text)
        beside.rename(self.rules / "rules.yaml")

    def metrics(self):
        return self.lab.inside(self.name, "curl", "-s", "http://127.0.0.1:9901/metrics").stdout

    def metric(self, name, *labels):
        lines = [line for line in self.metrics().splitlines() if line.startswith((name + "{", name + " ")) and all(label in line for label in labels)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def peers(lab):
    """Who is connected to on-prem, as it sees it."""
    lines = lab.inside("onprem", "ss", "-Htn", "state", "established", "sport", "=", ":8080").stdout.splitlines()
    return {line.split()[-1] for line in lines}


def count(lab):
    return Watch(lambda: peers(lab))


@pytest.fixture
def lab():
    lab = Lab()
    yield lab
    lab.remove()


def call(lab, network, count, tries=1, rounds=1):
    command = [sys.executable, LAB / "functions.py", "100.127.255.254", "9443", "9444", str(count), "400", str(tries), str(rounds)]
    out = subprocess.run(["ip", "netns", "exec", lab.names[network], *map(str, command)], capture_output=True, text=True, timeout=240)
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout)


def test_thousands_of_functions_are_a_handful_of_connections_from_a_handful_of_addresses(start, lab):
    start(Inside, lab, "onprem", sys.executable, LAB / "core.py", 8081)
    onprem = start(Onprem, lab)
    start(Inside, lab, "onprem", "dnsmasq", "-k", "-C", "/dev/null", "-a", "10.9.0.10", "--bind-interfaces", "--no-resolv", "--no-hosts", "--pid-file=", "--host-record=core.bank.internal,10.9.0.10")
    proxies = {name: start(Proxy, lab, name, ENDS[:1]) for name in PROXIES}
    balancers = [start(Inside, lab, network, sys.executable, LAB / "endpoint.py", lab.names[network], lab.names["nlb"], end, "100.127.255.254", "9443", *(addresses[0] for addresses in PROXIES.values())) for network, end in zip(("fn1", "fn2"), ENDS, strict=True)]
    for balancer in balancers:
        wait_for(f"the endpoint: {balancer.text()}", lambda balancer=balancer: "ready" in balancer.text())
    # On-prem has no way to a large network, nor has a large network one to on-prem.
    assert lab.inside("onprem", "ip", "route", "get", "100.64.0.1", check=False).returncode != 0
    assert lab.inside("fn1", "ip", "route", "get", "10.9.0.10", check=False).returncode != 0
    assert call(lab, "fn1", 20)["served"] == 20

    # 5,000 at once: all served, by no more connections than were agreed on, from the /28.
    with count(lab) as seen:
        many = call(lab, "fn1", 5000)
    sources = sorted({peer.rsplit(":", 1)[0] for peer in seen.seen})
    print(f"5,000 callers: {many}, at most {seen.most} connections on-prem, from {sources}")
    assert many["served"] == 5000 and many["again"] == 0, many
    # A second count: what nginx has written down.
    logged = set(onprem.seen.read_text().split())
    known = {address for addresses in PROXIES.values() for address in addresses}
    assert 10 <= seen.most <= 2 * CAP and set(sources) <= known and logged == known, (seen.most, sources, logged)
    waited = sum(proxy.metric("banyan_egress_queue_seconds_count", 'rule="core"') + proxy.metric("banyan_backend_queue_seconds_count", 'backend="core"') for proxy in proxies.values())
    longest = sum(proxy.metric("banyan_egress_queue_seconds_sum") + proxy.metric("banyan_backend_queue_seconds_sum") for proxy in proxies.values())
    assert waited >= 5000 and longest / waited > 0.1, (waited, longest)

    # The second large network has the same addresses. It is nobody until a rule names it, and then it is served: no restart, nothing on-prem.
    refused = call(lab, "fn2", 10)
    assert refused["served"] == 0 and all("403" in said[0] for said in refused["failed"]), refused
    assert sum(proxy.metric("banyan_refused_total", 'cause="egress_caller"') for proxy in proxies.values()) == 10
    for proxy in proxies.values():
        proxy.write(ENDS)
    wait_for("the edit", lambda: call(lab, "fn2", 10)["served"] == 10)

    # One proxy is killed under load: what it carried is tried again and goes through the other.
    results = []
    load = threading.Thread(target=lambda: results.append(call(lab, "fn1", 200, tries=20, rounds=20)))
    with count(lab) as seen:
        load.start()
        before = proxies["p1"].metric("banyan_egress_connections_total", 'rule="core"')
        wait_for("load", lambda: proxies["p1"].metric("banyan_egress_connections_total", 'rule="core"') > before + 100)
        proxies["p1"].popen.kill()
        died = time.monotonic()
        load.join()
    print(f"one of two proxies killed: {results[0]}, {time.monotonic() - died:.1f} s after it; at most {seen.most} connections")
    assert results[0]["served"] == 4000 and results[0]["again"] > 0 and seen.most <= 2 * CAP, (results, seen.most)
