"""Runs cases through a proxy and judges what came out on both sides.

`python tests/conformance/run.py [--proxy naive|lane] [--only TEXT] [--show]`: a line for each class and each finding; exit 1 when there is one.
"""

import argparse
import collections
import concurrent.futures
import pathlib
import queue
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "e2e")]

import answers  # noqa: E402
import frames  # noqa: E402
from cases import all_cases  # noqa: E402
from origin import CLOSE, Origin, plain  # noqa: E402
from readers import DEVIANT, HOP_BY_HOP, STRICT, Stuck, Unreadable, heads, short, verdict  # noqa: E402

# How long a refused connection may stay open: a client that is still sending is read for a second more.
CLOSED_WITHIN = 3
# How long an answer may take to begin.
ANSWER_WITHIN = 1.0
QUIET = 0.15


class Worker:
    """One origin and the port of the proxy that leads to it: nothing of another worker's case can be taken for one's own."""

    def __init__(self, origin, port, h2_port=None):
        self.origin, self.port, self.h2_port, self.canaries = origin, port, h2_port, 0
        # Makes the proxy forget what a case has done to it, so that each finding is its own.
        self.heal = lambda: None


def banyan_workers(count, folder, extra_rules="", extra_settings=""):
    from conftest import Banyan, lease_port

    origins = [Origin() for _ in range(count)]
    ports = [lease_port() for _ in range(count)]
    h2_ports = [lease_port() for _ in range(count)]
    backends = "".join(f'  w{n}: {{urls: ["http://127.0.0.1:{origin.port}"]}}\n' for n, origin in enumerate(origins))
    routes = "".join(f"  - {{id: r{n}, match: [{{prefix: /, listener: w{n}}}, {{prefix: /, listener: v{n}}}], legacy: w{n}, timeouts: {{total: 8s}}}}\n" for n in range(count))
    listeners = "".join(f'  - {{name: w{n}, address: "127.0.0.1:{port}"}}\n' for n, port in enumerate(ports))
    listeners += "".join(f'  - {{name: v{n}, address: "127.0.0.1:{port}", h2c: true}}\n' for n, port in enumerate(h2_ports))
    settings = f"version: 1\nlisteners:\n{listeners}limits: {{header_time: 3s, idle: 3s}}\n{extra_settings}"
    banyan = Banyan(folder, f"version: 1\nbackends:\n{backends}routes:\n{routes}{extra_rules}", settings, listen=False)
    return banyan, [Worker(*each) for each in zip(origins, ports, h2_ports)]


def naive_workers(count):
    from naive import Naive

    origins = [Origin() for _ in range(count)]
    workers = []
    for origin in origins:
        naive = Naive(origin.port)
        worker = Worker(origin, naive.port)
        worker.heal = naive.forget
        workers.append(worker)
    return None, workers


def lane_workers(count, folder):
    """The prototype of docs/own-lane.md; `cargo build -p own-lane` builds it."""
    from conftest import PROFILE, TARGET, lease_port

    origins, ports = [Origin() for _ in range(count)], [lease_port() for _ in range(count)]
    (folder / "rules").mkdir(parents=True)
    backends = "".join(f'  w{n}: {{urls: ["http://127.0.0.1:{origin.port}"]}}\n' for n, origin in enumerate(origins))
    routes = "".join(f"  - {{id: r{n}, match: {{prefix: /, listener: w{n}}}, legacy: w{n}}}\n" for n in range(count))
    (folder / "rules/r.yaml").write_text(f"version: 1\nbackends:\n{backends}routes:\n{routes}")
    lane = subprocess.Popen([TARGET / PROFILE / "own-lane", folder / "rules", "off", *(f"127.0.0.1:{port}=w{n}" for n, port in enumerate(ports))])
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", ports[-1]), timeout=1).close()
            break
        except OSError:
            time.sleep(0.02)  # it has no other sign that it listens
    lane.stop = lambda signal=9: lane.send_signal(signal)
    return lane, [Worker(*each) for each in zip(origins, ports)]


def exchange(port, data):
    """(what came back, whether the proxy closed the connection by itself)."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        got, closed = b"", False
        try:
            client.settimeout(5)
            client.sendall(data)
        except OSError:
            closed = True  # it was closed while we sent; what was answered may still be read
        end = time.monotonic() + ANSWER_WITHIN
        try:
            while True:
                left = end - time.monotonic()
                if left <= 0:
                    break
                client.settimeout(left)
                chunk = client.recv(65536)
                if not chunk:
                    return got, True
                got += chunk
                refused = status(got) >= 400
                end = time.monotonic() + (CLOSED_WITHIN if refused else QUIET)
        except TimeoutError:
            pass
        except OSError:
            return got, True
        try:
            client.shutdown(socket.SHUT_WR)
            client.settimeout(CLOSED_WITHIN)
            while chunk := client.recv(65536):
                got += chunk
        except OSError:
            pass
        return got, closed


def status(answer):
    """Of the last answer that begins in the bytes and is not 100; 0 when there is none."""
    found = 0
    for part in answer.split(b"HTTP/1.")[1:]:
        digits = part[2:5]
        if digits.isdigit() and digits != b"100":
            found = int(digits)
    return found


def canary(worker):
    """None, or what went wrong with an ordinary request after the case."""
    worker.canaries += 1
    target = b"/canary-%d" % worker.canaries
    try:
        with socket.create_connection(("127.0.0.1", worker.port), timeout=5) as client:
            client.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            got = b""
            while chunk := client.recv(65536):
                got += chunk
    except OSError as error:
        return f"poisoned: the canary failed: {error}"
    if not got.startswith(b"HTTP/1.1 200") or not got.endswith(b"\r\n\r\n" + target):
        return f"poisoned: the canary got {got[-200:]!r}"
    return None


def incomplete(seen):
    return bool(seen) and isinstance(seen[-1], Stuck) and ("not all there" in seen[-1].why or "does not end" in seen[-1].why)


def settled(worker):
    """Waits until what was cut off in the middle is closed on both sides."""
    worker.origin.quiet()
    end = time.monotonic() + CLOSED_WITHIN
    while time.monotonic() < end and any(not ended and incomplete(STRICT.read(data)) for data, ended in worker.origin.received()):
        time.sleep(0.01)  # polled: the origin's threads tell nobody


def judge_forwarded(worker):
    """(the whole requests the origin got, what is wrong with the bytes it got)."""
    wrong, forwarded = [], []
    for data, ended in worker.origin.received():
        seen = STRICT.read(data)
        forwarded += [it for it in seen if not isinstance(it, Stuck)]
        if incomplete(seen):
            # Cut off in the middle: no harm if the connection is gone too, and nobody finds a further request in it.
            if not ended:
                wrong.append("poisoned: half a request stands on a connection that stays open")
            more = [r.name for r in DEVIANT if sum(not isinstance(it, Stuck) for it in r.read(data)) > len(seen) - 1]
            if more:
                wrong.append(f"ambiguous: {more} see more than half a request")
        else:
            wrong += verdict(data)
    if any(b"smuggled" in it.target for it in forwarded):
        wrong.append("smuggled")
    return forwarded, wrong


def judge(case, worker, answer, closed):
    forwarded, wrong = judge_forwarded(worker)
    first = status(answer)
    partly = bool(worker.origin.received())
    if case.expect == "forward" and (not forwarded or first != 200):
        wrong.append(f"refused: a good request got {answer[:80]!r}")
    if case.expect in ("refuse", "cut", "after"):
        whole = [it for it in forwarded if it.target != b"/first"]
        if whole or (case.expect == "refuse" and partly) or (case.expect == "after" and len(forwarded) != 1):
            wrong.append(f"forwarded: {short(forwarded) or 'a part'}")
        if answer and first not in case.statuses and not (case.expect == "cut" and first in (200, 502)):
            wrong.append(f"status {first}, expected {case.statuses}")
        if not closed and not (case.expect == "cut" and first == 0):
            wrong.append("open: refused, but the connection was not closed")
    if case.expect == "either":
        if not forwarded and not partly and first in (400, 431, 501, 505) and not closed:
            wrong.append("open: refused, but the connection was not closed")
        if not forwarded and answer and first not in (*case.statuses, 400, 404, 405, 411, 417, 421, 499, 502):
            wrong.append(f"status {first}")
    if forwarded and case.body is not None and forwarded[0].body != case.body:
        wrong.append(f"the body is {forwarded[0].body[:60]!r}")
    return sorted(set(wrong + judge_names(case, worker)))


def judge_names(case, worker):
    wrong = []
    for data, _ in worker.origin.received():
        for head in heads(data):
            names = [line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:]]
            wrong += [f"invalid: {name.decode('latin-1')} got through" for name in case.absent if name in names]
            wrong += [f"invalid: {name.decode('latin-1')} is missing" for name in getattr(case, "present", ()) if name not in names]
            if b"6.6.6.6" in head or b"7.7.7.7" in head:
                wrong.append("invalid: somebody's claim got through")
    return wrong


def one(case, worker):
    worker.origin.begin()
    answer, closed = exchange(worker.port, case.data)
    settled(worker)
    return with_canaries(worker, judge(case, worker, answer, closed)), answer


def one_h2(case, worker):
    worker.origin.begin()
    got, ended = frames.exchange(worker.h2_port, case)
    settled(worker)
    forwarded, wrong = judge_forwarded(worker)
    wrong += judge_names(case, worker)
    if case.expect == "forward" and (len(forwarded) != 1 or got != 200):
        wrong.append(f"refused: a good request got {got}")
    if case.expect == "refuse" and worker.origin.received():
        wrong.append(f"forwarded: {short(forwarded) or 'a part'}")
    if len(forwarded) > 1:
        wrong.append(f"split: {short(forwarded)}")
    if not ended or (not forwarded and got and not 400 <= got < 600):
        wrong.append(f"status {got}, {'ended' if ended else 'not ended'}")
    for it in forwarded:
        if case.target not in (None, it.target) or case.host not in (None, it.host):
            wrong.append(f"changed: {it.target!r} {it.host!r}")
        if it.body != (case.body or b"") and case.expect != "cut":
            wrong.append(f"the body is {it.body[:60]!r}")
    return with_canaries(worker, sorted(set(wrong))), b"%d" % got


def one_answer(case, worker):
    """The backend's answer is the case."""
    closing = case.close

    def answered(request):
        if request.target.startswith(b"/canary"):
            return plain(request)
        return case.answer + (CLOSE if closing else b"")

    worker.origin.begin()
    worker.origin.answer = answered
    answer, _ = exchange(worker.port, case.method + b" /case HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    wrong = judge_answer(case, answer)
    return with_canaries(worker, wrong), answer


def judge_answer(case, answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 1"):
        head, _, body = body.partition(b"\r\n\r\n")
    wrong = []
    fields = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
    names = [name.lower() for name, _, _ in fields]
    first = int(head[9:12]) if head[9:12].isdigit() else 0
    if names.count(b"content-length") + names.count(b"transfer-encoding") > 1:
        wrong.append("ambiguous: several framings reach the client")
    hops = HOP_BY_HOP & set(names) | ({b"x-secret"} & set(names))
    if hops or b"x-evil" in names or b"EVIL" in answer:
        wrong.append(f"invalid: {hops or 'bytes behind the answer reach the client'}")
    if any(b"\n" in line or b"\r" in line or b"\0" in line for line in head.split(b"\r\n")):
        wrong.append("invalid: a line of the head is none")
    whole = body
    if b"transfer-encoding" in names:
        try:
            whole, end = STRICT._chunks(body, 0)
            wrong += ["invalid: bytes behind the chunks"] if end != len(body) else []
        except Unreadable as why:
            whole = None if case.expect in ("cut", "either") else wrong.append(f"invalid: {why}")
    elif b"content-length" in names:
        length = next(value for name, _, value in fields if name.lower() == b"content-length").strip()
        if not length.isdigit() or len(body) > int(length):
            wrong.append("invalid: the length")
        elif case.method != b"HEAD" and first not in (204, 304) and len(body) < int(length):
            whole = None
    good = 200 <= first < 400 and whole == case.body
    if case.expect == "forward" and not good:
        wrong.append(f"refused: a good answer became {answer[:80]!r}")
    if case.expect == "refuse" and first != 502 and whole is not None:
        wrong.append(f"status {first}, expected 502")
    if case.expect == "cut" and whole is not None and first != 502:
        wrong.append("a part passes for the whole")
    return sorted(set(wrong))


def with_canaries(worker, wrong):
    worker.origin.answer = plain
    for _ in range(2):
        worker.origin.begin()
        failed = canary(worker)
        if failed:
            wrong.append(failed)
            worker.heal()
            break
    return wrong


def through(workers, cases, run=one):
    """All cases by all workers: [(case, what is wrong, the answer)] in order."""
    free = queue.Queue()
    for worker in workers:
        free.put(worker)

    def take(case):
        worker = free.get()
        try:
            return (case, *run(case, worker))
        finally:
            free.put(worker)

    with concurrent.futures.ThreadPoolExecutor(len(workers)) as pool:
        return list(pool.map(take, cases))


def report(results, show=False):
    totals = collections.Counter(case.family for case, _, _ in results)
    bad = [(case, wrong, answer) for case, wrong, answer in results if wrong]
    failed = collections.Counter(case.family for case, _, _ in bad)
    lines = [f"{family:12} {count:4} cases {failed[family]:4} findings" for family, count in totals.items()]
    for case, wrong, answer in bad:
        lines.append(f"{case.family} / {case.name}: {'; '.join(wrong)}" + (f"  <- {answer[:60]!r}" if show else ""))
    lines.append(f"{len(results)} cases, {len(bad)} findings")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--proxy", choices=["banyan", "naive", "lane"], default="banyan")
    parser.add_argument("--only", default="")
    parser.add_argument("--show", action="store_true")
    args = parser.parse_args()
    h1, h2, of_backends = (all_cases(), one), (list(frames.cases()), one_h2), (list(answers.cases()), one_answer)
    suites = {"naive": [h1], "lane": [h1, of_backends], "banyan": [h1, h2, of_backends]}[args.proxy]
    with tempfile.TemporaryDirectory() as folder:
        own = pathlib.Path(folder) / "b"
        banyan, workers = {"naive": lambda: naive_workers(6), "lane": lambda: lane_workers(6, own), "banyan": lambda: banyan_workers(6, own)}[args.proxy]()
        try:
            results = []
            for cases, run in suites:
                results += through(workers, [case for case in cases if args.only in f"{case.family} / {case.name}"], run)
        finally:
            if banyan:
                banyan.stop(9)
    print(report(results, args.show))
    return 1 if any(wrong for _, wrong, _ in results) else 0


if __name__ == "__main__":
    sys.exit(main())
