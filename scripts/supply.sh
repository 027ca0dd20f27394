#!/usr/bin/env bash
# Looks at the supply chain: licences, sources, banned and duplicate crates, and known advisories, by cargo-deny, which it installs if need be.
# Advisories are looked up in an offline copy of the RustSec database: the archive in BANYAN_ADVISORIES, or one beside the checkout. Without a
# copy it says so and goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.20.2
tools=$(realpath -m "${CARGO_TARGET_DIR:-target}")/tools
deny=$tools/bin/cargo-deny
if [ "$("$deny" --version 2>/dev/null)" != "cargo-deny $version" ]; then
  echo "supply: installing cargo-deny $version" >&2
  CARGO_PROFILE_DEV_DEBUG=0 "${CARGO:-cargo}" install -q --locked --debug --root "$tools" --target-dir "$tools/build" --version "$version" cargo-deny
  rm -rf "$tools/build"
fi
for lock in Cargo.toml deploy/functions/Cargo.toml fuzz/Cargo.toml; do
  echo "supply: $lock" >&2
  checks=(licenses sources bans)
  # Functions run alone, on the runtime's own HTTP stack; what is banned is banned from the proxy.
  [ "$lock" != deploy/functions/Cargo.toml ] || checks=(licenses sources)
  "$deny" --locked --manifest-path "$lock" --config deny.toml check --hide-inclusion-graph -A duplicate -A license-not-encountered -A license-exception-not-encountered "${checks[@]}"
done

archive=${BANYAN_ADVISORIES:-../shared/advisory-db/advisories.tar.gz}
if [ ! -e "$archive" ]; then
  echo "supply: advisories NOT checked: no $archive; name an archive of RustSec's crates/ and rust/ in BANYAN_ADVISORIES" >&2
  exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# As cargo-deny keeps it: a repository, named after the address it would come from.
db=$work/advisory-db-3157b0e258782691
mkdir "$db"
tar xzf "$archive" -C "$db"
newest=$(grep -rhoE '^date = "[0-9]{4}-[0-9]{2}-[0-9]{2}"' "$db/crates" | sort | tail -1 | cut -d'"' -f2)
git -C "$db" init -q
git -C "$db" add -A
GIT_COMMITTER_DATE="${newest}T00:00:00Z" git -C "$db" -c user.name=data -c user.email=data@localhost commit -qm data
{ cat deny.toml; echo "db-path = \"$work\""; } >"$work/deny.toml"
for lock in Cargo.toml deploy/functions/Cargo.toml fuzz/Cargo.toml; do
  "$deny" --offline --locked --manifest-path "$lock" --config "$work/deny.toml" check --hide-inclusion-graph -A advisory-not-detected advisories
done
age=$((($(date +%s) - $(date -d "$newest" +%s)) / 86400))
echo "supply: advisories up to $newest, $age days old: none is met" >&2
