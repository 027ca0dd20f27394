#!/usr/bin/env bash
# The release binary: target/release/banyan, made three times from the same sources and each time laid out by what a training run did.
#   1. an instrumented build is trained (PGO: what is inlined, what is cold);
#   2. the build that uses this is instrumented by BOLT and trained again (where functions and blocks stand, so that what runs is together);
#   3. BOLT writes it once more.
# Needs the llvm-profdata of the compiler's own LLVM, and llvm-bolt of any LLVM from 16 on; installs both as root on Debian. Without the first there is no profile,
# without the second no third step; either is said.
#   BANYAN_PGO=off           without any profile, in a third of the time
#   BANYAN_BOLT=off          without the second training
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
# By the path it was installed under: it looks for its runtime beside itself, and a link in /usr/bin is not there.
bolt() {
  local tool
  tool=$(find /usr/lib -maxdepth 3 -path '/usr/lib/llvm-*/bin/llvm-bolt' 2>/dev/null | sort -V | tail -1)
  [ -n "$tool" ] || tool=$(command -v llvm-bolt) || return 1
  [ -e "$(dirname "$(realpath "$tool")")/../lib/libbolt_rt_instr.a" ] && echo "$tool"
}
install() {
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing $1" >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1" >/dev/null 2>&1
  else
    return 1
  fi
}

profdata >/dev/null || install "llvm-$version" || true
if [ "${BANYAN_PGO:-on}" = off ] || ! tool=$(profdata) || ! command -v python3 >/dev/null; then
  echo "release: built WITHOUT a profile: about a fifth more CPU per request. It takes python3 and llvm-profdata of LLVM $version (Debian: llvm-$version), and BANYAN_PGO not off." >&2
  exec "$cargo" build --locked --release "${packages[@]}"
fi
relocations=
if [ "${BANYAN_BOLT:-on}" != off ] && [ "$host" = x86_64-unknown-linux-gnu ]; then
  bolt >/dev/null || install bolt-19 || install bolt-16 || true
  if bolt >/dev/null; then relocations="-Clink-arg=-Wl,--emit-relocs"; fi
fi
[ -n "$relocations" ] || echo "release: WITHOUT the layout of BOLT: a few percent more CPU per request. It takes llvm-bolt with its runtime (Debian: bolt-19) on x86-64, and BANYAN_BOLT not off." >&2

# With a target named, flags are for what runs there, not for what runs during the build: build scripts and macros would write profiles of their own.
# Both builds name it, and use one cargo profile and one mangling, or functions would have other names in one than in the other. (Names of the older
# mangling have dots, and a module's name between two of them looks to BOLT like a part that was split off.)
profile=$(realpath -m "$target/pgo")
rm -rf "$profile/raw" "$profile/bolt"
mkdir -p "$profile/raw" "$profile/bolt" "$target/release"
built() { RUSTFLAGS="$1 -Csymbol-mangling-version=v0 ${RUSTFLAGS:-}" "$cargo" build --locked --release "${packages[@]}" --target "$host" --target-dir "$2"; }
echo "release: an instrumented build" >&2
built "-Cprofile-generate=$profile/raw" "$profile/build"
echo "release: training" >&2
python3 scripts/train.py "${names[@]/#/$profile/build/$host/release/}"
"$tool" merge -o "$profile/banyan.profdata" "$profile/raw"
echo "release: the build that uses it" >&2
built "-Cprofile-use=$profile/banyan.profdata $relocations" "$target"
for name in "${names[@]}"; do
  cp "$target/$host/release/$name" "$profile/bolt/$name.plain"
done
if [ -n "$relocations" ]; then
  said() { "$(bolt)" "$@" >"$profile/bolt/said" 2>&1 || { cat "$profile/bolt/said" >&2; exit 1; }; }
  echo "release: training for the layout" >&2
  for name in "${names[@]}"; do
    said "$profile/bolt/$name.plain" -instrument -instrumentation-file="$profile/bolt/$name.fdata" -o "$profile/bolt/$name"
  done
  python3 scripts/train.py "${names[@]/#/$profile/bolt/}"
  for name in "${names[@]}"; do
    # Without -hugify: what that puts before `main` ends the process where the kernel has no huge pages. Without -update-debug-sections: what BOLT 19 makes of
    # the lines of this compiler is not read by gdb and valgrind, and a backtrace names its functions without it.
    said "$profile/bolt/$name.plain" -data="$profile/bolt/$name.fdata" -reorder-blocks=ext-tsp -reorder-functions=cdsort -split-functions -split-all-cold -split-eh -icf \
      -jump-tables=move -plt=all -o "$profile/bolt/$name.laid"
    mv "$profile/bolt/$name.laid" "$profile/bolt/$name.plain"
  done
fi
for name in "${names[@]}"; do
  mv "$profile/bolt/$name.plain" "$target/release/$name"
done
