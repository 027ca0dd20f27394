#!/usr/bin/env bash
# The release binary, laid out by a profile of a training run (PGO): target/release/banyan.
# Needs the llvm-profdata of the compiler's own LLVM; installs it as root on Debian, and builds without a profile, saying so, where it cannot.
#   BANYAN_PGO=off           without a profile, in half the time
#   BANYAN_RELEASE_WITH=...  other packages of the workspace, built and trained in the same way: what tests/bench sets beside it
set -euo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
target=${CARGO_TARGET_DIR:-target}
version=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
host=$(rustc -vV | sed -n 's/^host: //p')
# shellcheck disable=SC2206  # several names
names=(banyan ${BANYAN_RELEASE_WITH:-})
packages=("${names[@]/#/--package=}")

profdata() {
  local tool
  for tool in "llvm-profdata-$version" "/usr/lib/llvm-$version/bin/llvm-profdata" "$(rustc --print target-libdir)/../bin/llvm-profdata"; do
    command -v "$tool" 2>/dev/null && return
  done
  return 1
}

if ! profdata >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing llvm-$version" >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "llvm-$version" >/dev/null 2>&1 || true
fi
if [ "${BANYAN_PGO:-on}" = off ] || ! tool=$(profdata) || ! command -v python3 >/dev/null; then
  echo "release: built WITHOUT a profile: about a fifth more CPU per request. It takes python3 and llvm-profdata of LLVM $version (Debian: llvm-$version), and BANYAN_PGO not off." >&2
  exec "$cargo" build --locked --release "${packages[@]}"
fi

# With a target named, flags are for what runs there, not for what runs during the build: build scripts and macros would write profiles of their own.
# Both builds name it, and use one cargo profile, or functions would have other names in one than in the other.
profile=$(realpath -m "$target/pgo")
rm -rf "$profile/raw"
mkdir -p "$profile/raw" "$target/release"
built() { RUSTFLAGS="$1 ${RUSTFLAGS:-}" "$cargo" build --locked --release "${packages[@]}" --target "$host" --target-dir "$2"; }
echo "release: 1 of 3, an instrumented build" >&2
built "-Cprofile-generate=$profile/raw" "$profile/build"
echo "release: 2 of 3, training" >&2
python3 scripts/train.py "${names[@]/#/$profile/build/$host/release/}"
"$tool" merge -o "$profile/banyan.profdata" "$profile/raw"
echo "release: 3 of 3, the build that uses it" >&2
built "-Cprofile-use=$profile/banyan.profdata" "$target"
for name in "${names[@]}"; do
  cp "$target/$host/release/$name" "$target/release/$name"
done
