"""What a request costs in instructions, allocations and system calls: counts, which a noisy machine does not change.

Instructions are callgrind's, of all threads of the process, in user space: the same load with 500 and with 2,500 requests of 1 KiB, and a request is a two-thousandth of the
difference, so that neither the start nor the end is in it. System calls are strace's, while 2,000 requests are served. Eight connections, kept alive. Envoy is not counted:
under callgrind it does not start in a minute.

    tests/.venv/bin/python tests/bench/counts.py [--profile FOLDER] [NAME ...]
prints the table alone; with --profile, callgrind's files are kept for callgrind_annotate.
"""

import argparse
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time

import mirror
import peers
from peers import LOAD_CORE, Running, banyan, bare, haproxy, lane, nginx, upstream

FEW, MANY, CONNECTIONS = 500, 2500, 8
PATH = "/svc9/1k"
UNOBSERVED = {"BANYAN_BENCH_UNOBSERVED": "1"}
# One process each, so that it can be followed.
WHO = {
    "nginx": lambda folder, up: nginx(folder, up, 10, alone=True),
    "haproxy": lambda folder, up: haproxy(folder, up, 10, alone=True),
    "bare pingora": lambda folder, up: bare(folder, up, 10),
    "banyan, nothing observed": lambda folder, up: banyan(folder, up, 10, env=UNOBSERVED),
    "banyan, metrics and traces": lambda folder, up: banyan(folder, up, 10),
    "banyan, and the log": lambda folder, up: banyan(folder, up, 10, log="file"),
    "own lane": lambda folder, up: lane(folder, up, 10, log="off"),
    "own lane, and the log": lambda folder, up: lane(folder, up, 10),
    # Who mirrors each request, and (Banyan) compares it; the shadow is the same upstream.
    "nginx, mirroring": lambda folder, up: (mirror.nginx(folder, "fast", up, up, alone=True), None),
    "banyan, mirroring": lambda folder, up: (mirror.banyan(folder, "fast", up, up), None),
}
# Copies may still be under way; under valgrind, everything takes fifty times as long.
SETTLE = 10


# Callgrind counts each byte that `rep movsb` copies as an instruction; without it, large copies are loops over vectors.
PLAIN_COPIES = {"GLIBC_TUNABLES": "glibc.cpu.x86_rep_movsb_threshold=1000000000"}


class Under(Running):
    """A proxy run by another program."""

    before = []

    def __init__(self, name, args, port, core, folder, env=None):
        super().__init__(name, [*Under.before, *args], port, core, folder, {**(env or {}), **PLAIN_COPIES})


def load(port, requests):
    args = ["taskset", "-c", LOAD_CORE, "h2load", "--h1", "-t1", f"-c{CONNECTIONS}", f"-n{requests}", f"http://127.0.0.1:{port}{PATH}"]
    text = subprocess.run(args, capture_output=True, text=True).stdout
    if f"{requests} succeeded" not in text:
        raise SystemExit(text)


def end(running):
    """Ended by being asked to, so that callgrind writes what it has counted."""
    os.killpg(running.process.pid, signal.SIGTERM)
    running.process.wait(120)


def run_under(before, start, folder, up):
    Under.before = before
    peers.Running = mirror.Running = Under
    try:
        return start(folder, up)[0]
    finally:
        peers.Running = mirror.Running = Running


def instructions(start, folder, up, settle, kept=None):
    totals = []
    for requests in [FEW, MANY]:
        sub = folder / f"callgrind-{requests}"
        sub.mkdir()
        out = sub / "callgrind.out"
        running = run_under(["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={out}"], start, sub, up)
        load(running.port, requests)
        time.sleep(settle)
        end(running)
        text = out.read_text(errors="replace")
        totals.append((int(re.search(r"^(?:summary|totals): (\d+)", text, re.M)[1]), allocations(text)))
        if kept and requests == MANY:
            kept.write_text(text)
    return [(many - few) / (MANY - FEW) for few, many in zip(*totals)]


# jemalloc's, as Rust calls them, and libc's.
ALLOCATING = re.compile(r"(?:_rjem_)?(?:malloc|calloc|realloc|mallocx|rallocx|posix_memalign|memalign)")


def allocations(text):
    """Calls of what allocates; each callee is named where it is first met."""
    names, callee, total = {}, "", 0
    for line in text.splitlines():
        if line.startswith("cfn=") or line.startswith("fn="):
            number, name = re.match(r"c?fn=(\(\d+\))(?: (.*))?", line).groups()
            if name:
                names[number] = name
            if line.startswith("cfn="):
                callee = names.get(number, "")
        elif line.startswith("calls=") and ALLOCATING.fullmatch(callee):
            total += int(line[6:].split(" ")[0])
    return total


def syscalls(start, folder, up):
    sub = folder / "strace"
    sub.mkdir()
    running, out = start(sub, up)[0], sub / "strace.out"
    try:
        load(running.port, 200)
        pids = [argument for pid in running.pids() for argument in ("-p", str(pid))]
        tracer = subprocess.Popen(["strace", "-qq", "-f", "-c", "-o", str(out), *pids], stderr=subprocess.DEVNULL)
        time.sleep(1)
        load(running.port, MANY - FEW)
        tracer.send_signal(signal.SIGINT)
        tracer.wait(20)
    finally:
        running.stop()
    return int(re.search(r"^\s*100\.00\s+\S+\s+\S*\s*(\d+)\s+(?:\d+\s+)?total$", out.read_text(), re.M)[1]) / (MANY - FEW)


def counts(folder, args, report, names=tuple(WHO), kept=None):
    up = upstream(folder)
    title = f"counts of a request of 1 KiB, {CONNECTIONS} connections"
    print(f"\n{title}\n{'':30}{'instructions':>14}{'allocations':>14}{'system calls':>14}", flush=True)
    table = {}
    try:
        for name in names:
            sub = folder / re.sub(r"\W+", "-", name)
            sub.mkdir()
            file = kept / f"{sub.name}.callgrind" if kept else None
            number, allocated = instructions(WHO[name], sub, up.port, SETTLE if "mirroring" in name else 0.5, file)
            table[name] = row = {"instructions": round(number), "allocations": round(allocated, 1), "syscalls": round(syscalls(WHO[name], sub, up.port), 2)}
            print(f"{name:30}{row['instructions']:>14,}{row['allocations']:>14}{row['syscalls']:>14}", flush=True)
    finally:
        up.stop()
    report[title] = table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(WHO)}")
    parser.add_argument("--profile", type=pathlib.Path)
    args = parser.parse_args()
    if unknown := set(args.names) - set(WHO):
        parser.error(f"unknown: {', '.join(unknown)}; known are {', '.join(WHO)}")
    if args.profile:
        args.profile.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="banyan-bench-") as folder:
        counts(pathlib.Path(folder), args, {}, args.names or tuple(WHO), args.profile)


if __name__ == "__main__":
    main()
