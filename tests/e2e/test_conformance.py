"""Bytes in, bytes out: no request is read in two ways behind the proxy, and no guard is walked around. The cases are in tests/conformance."""

import hashlib
import pathlib
import sys

import pytest
from conftest import Banyan

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "conformance"))

import answers  # noqa: E402
import frames  # noqa: E402
import paths  # noqa: E402
import run  # noqa: E402
from cases import all_cases  # noqa: E402
from origin import Origin  # noqa: E402

WORKERS = 6


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    banyan, workers = run.banyan_workers(WORKERS, tmp_path_factory.mktemp("conformance") / "b")
    yield workers
    banyan.stop()
    assert "panicked" not in banyan.text()


@pytest.mark.parametrize("cases, one", [(all_cases(), run.one), (list(frames.cases()), run.one_h2), (list(answers.cases()), run.one_answer)], ids=["h1", "h2", "answers"])
def test_nothing_is_ambiguous_poisoned_or_invalid(workers, cases, one):
    results = run.through(workers, cases, one)
    assert not any(wrong for _, wrong, _ in results), run.report(results, show=True)
    print(run.report(results))


def test_the_same_runner_finds_a_naive_proxy_wanting(monkeypatch):
    # It keeps what it cannot read open; nobody needs to wait for it.
    monkeypatch.setattr(run, "CLOSED_WITHIN", 0.3)
    monkeypatch.setattr(run, "ANSWER_WITHIN", 0.4)
    _, workers = run.naive_workers(WORKERS)
    results = run.through(workers, all_cases()[::4]) + run.through(workers, list(answers.cases())[:12], run.one_answer)
    found = [wrong for _, wrong, _ in results if wrong]
    text = run.report(results)
    for word in ["ambiguous", "smuggled", "poisoned", "invalid", "forwarded", "open"]:
        assert any(word in it for wrong in found for it in wrong), f"no `{word}`: {text}"
    good = [wrong for case, wrong, _ in results if case.expect == "forward"]
    assert sum(not wrong for wrong in good) > len(good) / 3, f"it must not fail at everything: {text}"
    print(len(results), "cases,", len(found), "findings")


KEY = "a-key-of-forty-characters-for-this-test1"


@pytest.mark.parametrize("mode", ["paths: strict", "paths: normalise, encoded_slash: allow"])
def test_no_path_leads_around_a_guard(start, tmp_path, mode):
    guarded, opened = Origin(), Origin()
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    (tmp_path / "keys.yaml").write_text(f"version: 1\nplans: {{p: {{rate: 1000/s, burst: 1000}}}}\nkeys: [{{sha256: {digest}, name: n, plan: p}}]\n")
    rules = f"""
version: 1
defaults: {{legacy: opened, {mode}}}
backends: {{opened: {{urls: ["http://127.0.0.1:{opened.port}"]}}, guarded: {{urls: ["http://127.0.0.1:{guarded.port}"]}}}}
routes: [{{id: admin, match: {{prefix: /admin}}, legacy: guarded, require: {{api_key: {{plan: p}}}}}}]
"""
    banyan = start(Banyan, rules, settings=f"version: 1\napi_keys: {tmp_path}/keys.yaml\n")
    variants = list(dict.fromkeys(paths.variants()))
    assert len(variants) >= 200 and len(paths.READINGS) >= 12
    passed = 0
    for target in variants:
        opened.begin()
        answer, _ = run.exchange(banyan.port, b"GET " + target + b" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        for data, _ in opened.received():
            sent = data.split(b" ")[1]
            arrives = paths.readings_that_arrive(sent)
            assert not arrives, f"{target!r} was sent as {sent!r}, which is the guarded place for {arrives}"
            passed += 1
        assert run.status(answer) in (200, 400, 403, 404), (target, answer[:80])
    assert not guarded.received(), "without a key"
    # Who has a key gets in, and what is not near the guard is let through as it came.
    for target in [b"/admin", b"/admin/users", b"/%61dmin"]:
        answer, _ = run.exchange(banyan.port, b"GET " + target + b" HTTP/1.1\r\nHost: h\r\nX-Api-Key: " + KEY.encode() + b"\r\nConnection: close\r\n\r\n")
        assert run.status(answer) == 200, answer
    for target in [b"/Open/Page", b"/administration", b"/ADMINISTRATION", b"/caf%C3%A9", b"/a.b./c"]:
        answer, _ = run.exchange(banyan.port, b"GET " + target + b" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert answer.endswith(b"\r\n\r\n" + target), (target, answer)
    print(len(variants), "variants,", passed, "forwarded,", len(paths.READINGS), "readings")


def test_the_paths_would_lead_around_a_guard_that_looks_at_the_bytes_only():
    around = [target for target in paths.variants() if not target.startswith(paths.GUARDED) and paths.readings_that_arrive(target)]
    assert len(around) > 100, len(around)
    print(len(around), "ways around a guard that compares bytes")
