# build   the granary binary
# demo    the first minute: one silo, no other services, windows against the truth
# demo-cluster  Kafka, Redis and three silos, some of which are killed while devices send and programs call
# test    every test but the long ones
# soak    the long tests: many kills, many seeds
# lint    format, clippy, documentation
# bench   the figures, with optimisation across crates
# check-deploy  the container files, without a container engine

# Build, demo and test share one profile and so one build of every crate: tests run real streams and want it
# optimised. Optimisation across crates is left to bench, since it would link every test for as long as the binary.
export CARGO_PROFILE_RELEASE_LTO = false
# Line numbers in backtraces cost a minute of every build from nothing.
export CARGO_PROFILE_RELEASE_DEBUG = none
# Tests with real servers mostly wait.
export RUST_TEST_THREADS ?= 4
CARGO = cargo
GRANARY = $(CARGO) run --quiet --release -p granary --
BENCH = CARGO_PROFILE_RELEASE_LTO=thin $(CARGO) run --release --target-dir target/bench -p granary -- bench

.PHONY: build demo demo-cluster test soak lint bench check-deploy setup setup-tests
.DEFAULT_GOAL := build

setup:
	@deploy/dev/setup

setup-tests:
	@deploy/dev/setup tests

build: setup
	$(CARGO) build --release -p granary

demo: build
	@$(GRANARY) demo

demo-cluster: setup-tests
	$(CARGO) build --quiet --release -p granary-cluster-tests --bins
	@$(CARGO) run --quiet --release -p granary-cluster-tests --bin demo-cluster

test: setup-tests
	$(CARGO) test --release --workspace

soak: setup-tests
	$(CARGO) test --release --workspace -- --ignored

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet

bench: setup
	$(BENCH) grains
	$(BENCH) streams

# With the binary of target/release, if there is one: its commands and settings are tried then, too.
check-deploy:
	@deploy/check
