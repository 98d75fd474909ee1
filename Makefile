# The few commands people use. `make help` lists them.
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c

cache := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/borealis
# One target directory per clone, outside of it.
export CARGO_TARGET_DIR ?= $(cache)/target-$(shell printf '%s' '$(CURDIR)' | sha256sum | cut -c1-12)
bin = $(CARGO_TARGET_DIR)/debug
# RocksDB's library is built once and linked by every profile.
rocksdb = export ROCKSDB_LIB_DIR="$$(deploy/setup/rocksdb.sh)" ROCKSDB_STATIC=1

.PHONY: help env setup build demo test bench chaos

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup:
	@deploy/setup/debian.sh

env: setup ## prints the variables that a bare cargo needs: eval "$(make env)"
	@$(rocksdb)
	echo "export CARGO_TARGET_DIR=$(CARGO_TARGET_DIR) ROCKSDB_LIB_DIR=$$ROCKSDB_LIB_DIR ROCKSDB_STATIC=1 BOREALIS_BIN=$(bin)"
