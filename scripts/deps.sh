#!/usr/bin/env bash
# Installs what builds and tests need beyond rustup's cargo. As root through apt; otherwise it says what is missing.
#   scripts/deps.sh build    cmake and a C compiler
#   scripts/deps.sh test     and nginx, HAProxy, curl, openssl, h2load, wrk, promtool, Alertmanager, Redis, PostgreSQL, dnsmasq, Node.js, Chromium, a Python environment with the emulators of AWS
#   scripts/deps.sh bench    and Envoy, valgrind, strace
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-build}

# command -> Debian package
need=(cmake:cmake cc:build-essential make:build-essential git:git)
if [ "$what" != build ]; then
  need+=(nginx:nginx-light curl:curl openssl:openssl h2load:nghttp2-client wrk:wrk promtool:prometheus prometheus-alertmanager:prometheus-alertmanager amtool:prometheus-alertmanager redis-server:redis-server haproxy:haproxy python3:python3 unshare:util-linux ip:iproute2 pgrep:procps node:nodejs npm:npm chromium:chromium psql:postgresql systemd-analyze:systemd dnsmasq:dnsmasq-base)
fi
if [ "$what" = bench ]; then
  need+=(valgrind:valgrind strace:strace)
fi

missing=()
for pair in "${need[@]}"; do
  command -v "${pair%%:*}" >/dev/null 2>&1 || missing+=("${pair##*:}")
done
if [ "$what" != build ] && ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
  missing+=(python3-venv)
fi
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "missing: ${missing[*]} (Debian package names). Install them, or run as root on Debian." >&2
    exit 1
  fi
  echo "installing ${missing[*]}" >&2
  # Servers among them are started by the tests themselves, on leased ports; their services must not start.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if [ "$what" != build ]; then
  venv=${BANYAN_VENV:-tests/.venv}
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
  "$venv/bin/pip" install -q --disable-pip-version-check -r tests/requirements.txt
  if [ "$what" = bench ]; then
    "$venv/bin/pip" install -q --disable-pip-version-check -r tests/bench/requirements.txt
  fi
fi

# The lock names versions and hashes; nothing is run at installation.
if [ "$what" != build ]; then
  for folder in tests/offline tests/browser proxy/console; do
    lock=$folder/node_modules/.package-lock.json
    if [ ! -e "$lock" ] || [ $folder/package-lock.json -nt "$lock" ]; then
      (cd $folder && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null)
      touch "$lock"
    fi
  done
fi
