#!/usr/bin/env bash
# Runs every fuzz target for a bounded time; ends with an error when one finds something. With the stable compiler: coverage by LLVM's pass, and
# no sanitizer, because no crate of ours has unsafe code. `cargo +nightly fuzz run TARGET` runs one with the address sanitizer.
#   scripts/fuzz.sh [SECONDS_EACH] [TARGET...]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-10}
shift || true
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")/fuzz
flags="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
host=$(rustc -vV | sed -n 's/^host: //p')
# With a target named, the flags are not for build scripts and macros.
RUSTFLAGS="$flags ${RUSTFLAGS:-}" "${CARGO:-cargo}" build --locked --release --manifest-path fuzz/Cargo.toml --target-dir "$target" --target "$host"
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cd fuzz/targets && ls -- *.rs | sed 's/\.rs$//')
for name in "${targets[@]}"; do
  work=$target/corpus/$name
  mkdir -p "$work" "$target/found"
  echo "fuzz: $name, $seconds s" >&2
  seeds=()
  [ ! -d "fuzz/seeds/$name" ] || seeds+=("fuzz/seeds/$name")
  [ "$name" != rules ] || seeds+=(routes/rules routes/tests/bad)
  log=$target/$name.log
  # A fixed seed and no corpus from before: the same run on every machine, as far as its speed allows.
  rm -rf "$work" && mkdir -p "$work"
  if ! "$target/$host/release/$name" "$work" "${seeds[@]}" -seed=1 -max_total_time="$seconds" -max_len=8192 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="$target/found/$name-" >"$log" 2>&1; then
    tail -40 "$log" >&2
    echo "fuzz: $name found something; the input is in $target/found" >&2
    exit 1
  fi
  runs=$(sed -n 's/^stat::number_of_executed_units: //p' "$log")
  [ "${runs:-0}" -ge 1000 ] || { echo "fuzz: $name ran $runs inputs only" >&2; exit 1; }
  echo "fuzz: $name, $runs inputs, nothing found" >&2
done
