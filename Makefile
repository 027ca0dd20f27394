# make demo    the main job on embedded defaults; nothing to install but a compiler
# make test    everything
# make bench   Banyan beside nginx, HAProxy and Envoy
CARGO ?= cargo
VENV  ?= tests/.venv
export BANYAN_VENV := $(VENV)
FUZZ_SECONDS ?= 10
BENCH_ARGS ?=
# The airline's functions have a lock and a tree of their own.
export BANYAN_TEST_FUNCTIONS := $(abspath $(or $(CARGO_TARGET_DIR),target))/functions/debug
FUNCTIONS := --manifest-path deploy/functions/Cargo.toml --target-dir $(dir $(BANYAN_TEST_FUNCTIONS))

.PHONY: demo build release test lint supply unit fuzz deploy e2e bench screenshots deps fmt bless

demo:
	@scripts/deps.sh build
	$(CARGO) run --locked -p banyan -- demo $(DEMO_ARGS)

build:
	@scripts/deps.sh build
	$(CARGO) build --locked

# Laid out by training runs where llvm-profdata and llvm-bolt are there; BANYAN_PGO=off for a third of the time.
release:
	@scripts/deps.sh build
	@CARGO=$(CARGO) scripts/release.sh

deps:
	@scripts/deps.sh test

test: deps lint supply unit fuzz deploy e2e

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) fmt --manifest-path deploy/functions/Cargo.toml --check
	$(CARGO) clippy --locked $(FUNCTIONS) -- -D warnings
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check

# Licences, sources, bans, advisories.
supply:
	@CARGO=$(CARGO) scripts/supply.sh

unit:
	$(CARGO) test --locked --workspace

# Every target for FUZZ_SECONDS.
fuzz:
	@CARGO=$(CARGO) scripts/fuzz.sh $(FUZZ_SECONDS)

# What can be said of deploy/ without an account: lints, and the networks through an emulated API.
deploy: deps
	$(CARGO) build --locked
	@scripts/deploy.sh

# The binaries are the debug ones that `unit` has built; `make e2e BANYAN_TEST_PROFILE=release` takes the others.
e2e: deps
	$(CARGO) build --locked
	$(CARGO) build --locked $(FUNCTIONS)
	$(VENV)/bin/pytest tests/e2e

# Ratios to the framework alone are worth something only if both are built alike.
bench:
	@scripts/deps.sh bench
	@CARGO=$(CARGO) BANYAN_RELEASE_WITH="bare-pingora own-lane" scripts/release.sh
	$(VENV)/bin/python tests/bench/bench.py $(BENCH_ARGS)

# Pictures of the console's pages, for README and docs: the real thing, driven by its own test.
screenshots: deps
	$(CARGO) build --locked
	BANYAN_SCREENSHOTS=docs/images $(VENV)/bin/pytest tests/e2e/test_console.py -k every_page

fmt:
	$(CARGO) fmt --all

# Writes golden files and the schema anew; read the diff.
bless:
	BANYAN_BLESS=1 $(CARGO) test --locked -p banyan-routes
