# The few commands people use. `make help` lists them.
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c

cache := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/borealis
# One target directory per clone, outside of it.
export CARGO_TARGET_DIR ?= $(cache)/target-$(shell printf '%s' '$(CURDIR)' | sha256sum | cut -c1-12)
bin = $(CARGO_TARGET_DIR)/debug
# What the programs say they are, and what the tests demand of them.
export BOREALIS_COMMIT := $(shell (git rev-parse HEAD 2>/dev/null || echo unknown) | tr -d '\n'; git diff --quiet HEAD 2>/dev/null || echo -- -dirty | cut -c4-)
# RocksDB's library is built once and linked by every profile.
rocksdb = export ROCKSDB_LIB_DIR="$$(deploy/setup/rocksdb.sh)" ROCKSDB_STATIC=1

.PHONY: help env setup build demo test bench chaos

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup:
	@deploy/setup/debian.sh

env: setup ## prints the variables that a bare cargo needs: eval "$(make env)"
	@$(rocksdb)
	echo "export CARGO_TARGET_DIR=$(CARGO_TARGET_DIR) ROCKSDB_LIB_DIR=$$ROCKSDB_LIB_DIR ROCKSDB_STATIC=1 BOREALIS_BIN=$(bin) BOREALIS_COMMIT=$(BOREALIS_COMMIT)"

build: setup ## all four programs
	@$(rocksdb)
	cargo build --locked --workspace --bins

demo: build ## a local cluster, two real jobs, kills of leader, agent and all replicas; nothing is lost
	@BOREALIS_BIN=$(bin) $(bin)/demo

test: setup ## format, lints, units, golden files, simulation, real processes, and the demo
	@$(rocksdb) BOREALIS_BIN=$(bin)
	cargo fmt --all --check
	cargo build --locked --workspace --bins
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo test --locked --workspace
	$(bin)/demo

bench: bench-engine bench-packing bench-commit bench-recovery bench-failover bench-submit bench-million ## prints every figure; `make bench-NAME` for one

bench-%: setup
	@$(rocksdb) BOREALIS_BIN=$(CARGO_TARGET_DIR)/release
	cargo build --locked --release --workspace --bins
	"$$BOREALIS_BIN/bench" $*

chaos: build ## longer runs of the fault tests
	@$(rocksdb) BOREALIS_BIN=$(bin) BOREALIS_CHAOS_KILLS=100 BOREALIS_CHAOS_OPERATIONS=200000
	tests/levels/programs.sh 1 # before the clusters, which a build would disturb
	SIM_SEEDS=$${SIM_SEEDS:-600} cargo test --locked -p replication --lib -- sim:: --nocapture
	cargo test --locked -p engine --lib -- the_hunter_finds_each_broken_rule --nocapture
	cargo test --locked --workspace --test it -- chaos --nocapture
