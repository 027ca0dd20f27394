#!/usr/bin/env bash
# Everything in deploy/ that can be read without an account or a cluster: lints, whose every finding is a failure, the networks made through an API,
# and the settings and rules started as they are.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${BANYAN_DEPLOY_VENV:-tests/.venv-deploy}
own=${BANYAN_CHECKOV_VENV:-tests/.venv-checkov}
banyan=$(realpath "${CARGO_TARGET_DIR:-target}/debug/banyan")

[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/pip" install -q --disable-pip-version-check -r tests/deploy/requirements.txt
[ -x "$own/bin/python" ] || python3 -m venv "$own"
"$own/bin/pip" install -q --disable-pip-version-check -r tests/deploy/checkov.txt

echo "deploy: cfn-lint, hadolint, kubernetes-validate, checkov"
"$venv/bin/cfn-lint" deploy/aws/*.yaml
"$venv/bin/hadolint" deploy/container/Dockerfile
"$venv/bin/kubernetes-validate" --strict --quiet deploy/kubernetes/*.yaml
"$own/bin/checkov" --skip-download --quiet --compact --directory deploy --framework cloudformation kubernetes dockerfile

echo "deploy: systemd-analyze verify"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
sed "s#/usr/local/bin/banyan#$banyan#" deploy/systemd/banyan.service >"$folder/banyan.service"
said=$(systemd-analyze verify --man=no "$folder/banyan.service" 2>&1) || { echo "$said" >&2; exit 1; }
[ -z "$said" ] || { echo "$said" >&2; exit 1; }

echo "deploy: settings and rules as they are"
"$banyan" check deploy/rules --deny-warnings
cp -r deploy/rules "$folder/rules"
# Its ports may be taken here; in a network of its own none is.
unshare --map-root-user --net bash -euo pipefail -c '
  ip link set lo up
  "$0" run --settings deploy/container/settings.yaml --rules "$1/rules" --state "$1/state" >"$1/log" 2>&1 &
  for _ in $(seq 200); do "$0" healthcheck >/dev/null 2>&1 && break; kill -0 $! 2>/dev/null || { cat "$1/log" >&2; exit 1; }; sleep 0.05; done
  "$0" healthcheck
  kill -INT $!
  wait $!' "$banyan" "$folder"

echo "deploy: the networks, through the API"
"$venv/bin/pytest" -q -p no:cacheprovider tests/deploy
