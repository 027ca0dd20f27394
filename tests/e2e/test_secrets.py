"""Secrets from files, the environment and Secrets Manager: taken over without a restart when they change, and shown to nobody."""

import json

import pytest
from conftest import Banyan, Nginx, lease_port, wait_for
from emulators import REGION, ROOT_KEY, Ministack, environment, send

FIRST, SECOND = "first-secret-of-acme-0001", "second-secret-of-acme-0002"


def secret(cloud, action, **body):
    answer = cloud.call("secretsmanager", "POST", "/", json.dumps(body).encode(), {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": f"secretsmanager.{action}"})
    assert answer.status == 200, answer
    return answer.json()


@pytest.fixture
def cloud(start):
    return start(Ministack)


def test_secrets_of_clients_operators_and_backends_come_from_secrets_manager_and_change(start, cloud, tmp_path):
    arn = secret(cloud, "CreateSecret", Name="prod/keys", SecretString=json.dumps({"acme": FIRST, "blue": "secret-of-blue-000000"}))["ARN"]
    secret(cloud, "CreateSecret", Name="ops", SecretString="token-of-kim-000000000\n")
    secret(cloud, "CreateSecret", Name="legacy", SecretString="token-of-legacy")
    (tmp_path / "keys.yaml").write_text(f'version: 1\nplans: {{p: {{rate: 1000/s}}}}\nkeys: [{{name: acme, plan: p, secret: "prod/keys#acme"}}, {{name: blue, plan: p, secret: "{arn}#blue"}}, {{name: gone, plan: p, secret: "not-there"}}, {{name: env, plan: p, env: KEY_OF_ENV}}]\n')
    (tmp_path / "tokens.yaml").write_text("version: 1\ntokens: [{name: kim, role: operator, secret: ops}]\n")
    port = lease_port()
    start(Nginx, f"server {{ listen 127.0.0.1:{port}; location / {{ return 200 $http_authorization; }} }}", port=port)
    rules = f"""
version: 1
backends:
  b: {{urls: ["http://127.0.0.1:{port}"], token: {{source: secrets_manager, secret: legacy}}}}
  e: {{urls: ["http://127.0.0.1:{port}"], token: {{source: env, variable: TOKEN_OF_E}}}}
routes:
  - {{id: r, match: {{prefix: /}}, legacy: b, require: {{api_key: {{plan: p}}}}}}
  - {{id: e, match: {{prefix: /e}}, legacy: e}}
"""
    settings = f'version: 1\naws: {{region: {REGION}, endpoint_url: "{cloud.url}"}}\napi_keys: {tmp_path / "keys.yaml"}\nadmin: {{tokens: {tmp_path / "tokens.yaml"}}}\n'
    env = {**environment(ROOT_KEY), "KEY_OF_ENV": "secret-of-env-0000000", "TOKEN_OF_E": "token-of-e"}
    banyan = start(Banyan, rules, settings, env=env)
    kim = {"Authorization": "Bearer token-of-kim-000000000"}
    ask = lambda key: send(banyan.port, "GET", "/", [("X-Api-Key", key)])  # noqa: E731
    assert ask(FIRST).status == 200 and ask("secret-of-blue-000000").status == 200 and ask("secret-of-env-0000000").status == 200
    assert ask(SECOND).status == 403 and ask("not-there").status == 403
    assert ask(FIRST).body == b"Bearer token-of-legacy" and send(banyan.port, "GET", "/e").body == b"Bearer token-of-e"
    assert banyan.api("/api/v1/revision", headers=kim)[0] == 200
    # Rotated: with HUP at once, without within a minute.
    secret(cloud, "PutSecretValue", SecretId="prod/keys", SecretString=json.dumps({"acme": SECOND, "blue": "secret-of-blue-000000"}))
    banyan.popen.send_signal(1)
    wait_for("the new secret", lambda: ask(SECOND).status == 200)
    assert ask(FIRST).status == 403 and ask("secret-of-blue-000000").status == 200
    # Away: what was known stays.
    cloud.stop()
    banyan.popen.send_signal(1)
    wait_for("the attempt", lambda: banyan.text().count("secret not read") >= 3)
    assert ask(SECOND).status == 200 and banyan.api("/api/v1/revision", headers=kim)[0] == 200
    told = banyan.text() + banyan.access_path.read_text() + json.dumps(banyan.api("/api/v1/backends", headers=kim)[1])
    for it in (FIRST, SECOND, "secret-of-", "token-of-"):
        assert it not in told, it


def test_where_a_secret_is_must_be_said_once(start, tmp_path):
    for field, why in [("", "expected one of"), (", env: NOWHERE_TO_BE_SEEN", "is not set"), (", env: HOME, secret: x", "not both"), (", env: SHORT", "shorter")]:
        (tmp_path / "keys.yaml").write_text(f"version: 1\nplans: {{p: {{rate: 1/s}}}}\nkeys: [{{name: a, plan: p{field}}}]\n")
        banyan = start(Banyan, "version: 1\n", f"version: 1\napi_keys: {tmp_path / 'keys.yaml'}\n", wait=False, env={"SHORT": "x"})
        banyan.popen.wait(20)
        assert banyan.popen.returncode == 64 and why in banyan.text(), (field, banyan.text())
