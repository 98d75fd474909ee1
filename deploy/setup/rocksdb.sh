#!/usr/bin/env bash
# Builds RocksDB's static library once, into a cache outside the clone, and prints the folder it lies in.
#
# Its C++ sources take about 23 minutes on two cores, whatever the optimisation level; every later build of
# Borealis links the cached file. The cache is keyed by version and flags, so a change of either builds anew.
# Two runs at once wait for each other; a run that dies leaves nothing half-made behind.
set -euo pipefail

# What must equal Cargo.toml, Cargo.lock and .cargo/config.toml; tests/it/tidy.rs compares them.
VERSION=0.25.0     # of the `rocksdb` crate
SYS_VERSION=0.19.0 # of `librocksdb-sys`, which has the C++ sources; goes with VERSION, so the key need not name it
FEATURES='"lz4", "bindgen-runtime"'
FLAGS='-Ctarget-cpu=x86-64-v2' # hardware CRC32C

cache="${XDG_CACHE_HOME:-$HOME/.cache}/borealis"
key="rocksdb-$VERSION-$(printf '%s|%s' "$FEATURES" "$FLAGS" | sha256sum | cut -c1-12)"
dir="$cache/$key"

if [ ! -f "$dir/librocksdb.a" ]; then
  mkdir -p "$cache"
  exec 9>"$cache/$key.lock"
  flock 9
fi
if [ ! -f "$dir/librocksdb.a" ]; then
  echo "building RocksDB into $dir; once, about 25 minutes on two cores" >&2
  scratch="$cache/$key.scratch"
  mkdir -p "$scratch/src"
  : >"$scratch/src/lib.rs"
  cat >"$scratch/Cargo.toml" <<TOML
[package]
name = "rocksdb-cache"
version = "0.0.0"
edition = "2024"

[dependencies]
rocksdb = { version = "=$VERSION", default-features = false, features = [$FEATURES] }
librocksdb-sys = { version = "=$SYS_VERSION", default-features = false }

[workspace]
TOML
  env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC RUSTFLAGS="$FLAGS" CARGO_TARGET_DIR="$scratch/target" \
    cargo build --release --manifest-path "$scratch/Cargo.toml" >&2
  found=$(find "$scratch/target/release/build" -path '*/librocksdb-sys-*/out/librocksdb.a' | head -n 1)
  if [ -z "$found" ]; then
    echo "RocksDB was built, but no librocksdb.a lies under $scratch/target; look there, or remove $scratch and retry" >&2
    exit 1
  fi
  mkdir -p "$dir"
  cp "$found" "$dir/librocksdb.a.part"
  mv "$dir/librocksdb.a.part" "$dir/librocksdb.a"
  rm -rf "$scratch"
fi
echo "$dir"
