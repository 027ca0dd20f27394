"""Who may call a route, and how often: limits by key, API keys with plans, client certificates."""

import hashlib
import time

import pytest
from conftest import Banyan, Nginx, curl, header, lease_port, wait_for
from emulators import send


@pytest.fixture
def origin(start):
    port = lease_port()
    start(Nginx, f"server {{ listen 127.0.0.1:{port}; location / {{ return 200 ok; }} }}", port=port)
    return port


def rules(port, route, extra=""):
    return f'version: 1\nbackends: {{b: {{urls: ["http://127.0.0.1:{port}"]}}}}\nroutes: [{{id: r, match: {{prefix: /r}}, legacy: b, {route}}}{extra}]\n'


def statuses(banyan, count, *headers):
    return [send(banyan.port, "GET", "/r", list(headers)).status for _ in range(count)]


def test_each_key_has_its_own_room_and_is_told_when_there_is_more(start, origin):
    banyan = start(Banyan, rules(origin, "limit: {key: header.X-Client, rate: 60/m, burst: 5}", f", {{id: free, match: {{prefix: /free}}, legacy: b}}"))
    for client in ("a", "b"):
        assert statuses(banyan, 9, ("X-Client", client))[:5] == [200] * 5
    answer = send(banyan.port, "GET", "/r", [("X-Client", "a")])
    assert answer.status == 429 and answer.body == b'{"message":"Too Many Requests"}' and header(answer.headers, "retry-after") == "1"
    assert header(answer.headers, "content-type") == "application/json"
    # Who brings no key is known by the address.
    assert statuses(banyan, 7)[4:] == [200, 429, 429]
    assert set(statuses_of(banyan, "/free", 20)) == {200}
    assert banyan.metric("banyan_refused_total", cause="rate_limited") >= 5
    assert "429" in {str(it["http.response.status_code"]) for it in banyan.log_lines(where=lambda line: line.get("cause") == "rate_limited")}
    # A reload that leaves the limit as it is gives nobody new room.
    banyan.write_rules(rules(origin, "owner: me, limit: {key: header.X-Client, rate: 60/m, burst: 5}"))
    wait_for("the rules", lambda: banyan.api("/api/v1/routes/r")[1]["owner"] == "me")
    assert statuses(banyan, 1, ("X-Client", "b")) == [429]
    wait_for("room", lambda: statuses(banyan, 1, ("X-Client", "a")) == [200], seconds=5)


def statuses_of(banyan, path, count):
    return [send(banyan.port, "GET", path).status for _ in range(count)]


def test_a_rate_is_kept_over_time(start, origin):
    banyan = start(Banyan, rules(origin, "limit: {key: client.ip, rate: 100/s, burst: 10}"))
    begun = time.monotonic()
    let = 0
    while time.monotonic() - begun < 2:
        let += statuses(banyan, 1) == [200]
    took = time.monotonic() - begun
    assert 0.8 * 100 * took <= let <= 10 + 100 * took + 1, (let, took)


def test_api_keys_have_plans_and_are_read_again(start, origin, tmp_path):
    digest = lambda text: hashlib.sha256(text.encode()).hexdigest()  # noqa: E731
    keys = tmp_path / "api-keys.yaml"
    good = f"""version: 1
plans: {{partners: {{rate: 1/m, burst: 3}}, others: {{rate: 1000/s}}}}
keys:
  - {{name: acme, plan: partners, sha256: {digest("key-of-acme")}}}
  - {{name: blue, plan: others, sha256: {digest("key-of-blue")}}}
"""
    keys.write_text(good)
    banyan = start(Banyan, rules(origin, "require: {api_key: {plan: partners}}"), f"version: 1\napi_keys: {keys}\n")
    for sent in ([], [("X-Api-Key", "wrong")], [("X-Api-Key", "key-of-blue")], [("X-Api-Key", "")]):
        answer = send(banyan.port, "GET", "/r", sent)
        assert answer.status == 403 and answer.body == b'{"message":"Forbidden"}', sent
    assert statuses(banyan, 5, ("X-Api-Key", "key-of-acme")) == [200, 200, 200, 429, 429]
    assert int(header(send(banyan.port, "GET", "/r", [("X-Api-Key", "key-of-acme")]).headers, "retry-after")) in range(50, 61)
    causes = {cause: banyan.metric("banyan_refused_total", cause=cause) for cause in ("api_key_missing", "api_key_unknown", "api_key_plan", "api_key_rate")}
    assert causes == {"api_key_missing": 1, "api_key_unknown": 2, "api_key_plan": 1, "api_key_rate": 3}
    keys.write_text(good.replace("name: blue, plan: others", "name: blue, plan: partners"))
    banyan.popen.send_signal(1)
    wait_for("the new plan", lambda: statuses(banyan, 1, ("X-Api-Key", "key-of-blue")) == [200])
    assert statuses(banyan, 1, ("X-Api-Key", "key-of-acme")) == [429], "a key of the old file has no new room"
    keys.write_text("nonsense")
    banyan.popen.send_signal(1)
    wait_for("the fault to be told", lambda: "API keys not read" in banyan.text())
    assert statuses(banyan, 1, ("X-Api-Key", "key-of-blue")) == [200] and "key-of" not in banyan.text() + banyan.access_path.read_text()


def test_a_client_certificate_is_required_where_a_route_says_so(start, origin, certificates):
    port = lease_port()
    settings = f"version: 1\nlisteners: [{{name: tls, address: 127.0.0.1:{port}, tls: {{cert: {certificates}/server.pem, key: {certificates}/server.key}}}}]\n"
    banyan = start(Banyan, rules(origin, "require: {client_cert: true}"), settings, listen=False)
    assert curl("--cacert", f"{certificates}/ca.pem", f"https://127.0.0.1:{port}/r")[0] == 403
    assert banyan.metric("banyan_refused_total", cause="client_cert_missing") == 1
    with_ca = settings.replace("key: ", f"client_ca: {certificates}/ca.pem, key: ").replace(str(port), str(other := lease_port()))
    start(Banyan, rules(origin, "require: {client_cert: true}"), with_ca, listen=False)
    assert curl("--cacert", f"{certificates}/ca.pem", "--cert", f"{certificates}/client.pem", "--key", f"{certificates}/client.key", f"https://127.0.0.1:{other}/r")[0] == 200
