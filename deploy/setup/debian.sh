#!/usr/bin/env bash
# Installs the Debian packages that building and testing need, where they are missing.
# Without root it prints the line to run, and stops. Checks for Rust and its components first.
set -euo pipefail

# Rust comes from rustup or from somewhere else; this script installs none.
for tool in cargo rustfmt cargo-clippy; do
  command -v "$tool" >/dev/null 2>&1 && "$tool" --version >/dev/null 2>&1 && continue
  echo "$tool is missing or does not run: Rust 1.95 or newer is needed, with the components rustfmt and clippy." >&2
  echo "  with rustup: rustup toolchain install stable --component rustfmt --component clippy" >&2
  exit 1
done

missing=()
need() { # need PACKAGE CHECK...
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || missing+=("$package")
}
# bindgen wants the library and clang's own headers; LIBCLANG_PATH points at another place that has both.
libclang() { [ -n "${LIBCLANG_PATH:-}" ] || dpkg -s libclang-dev; }

need g++ command -v g++
need make command -v make
need git command -v git
need curl command -v curl
need e2fsprogs command -v mkfs.ext4 # tests that fill a small disk
need iproute2 command -v ip # tests that cut networks
need python3 command -v python3 # what examples/two_steps.aurora serves its page with
need libclang-dev libclang
need prometheus command -v promtool

[ ${#missing[@]} -eq 0 ] && exit 0
line="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
if [ "$(id -u)" -ne 0 ]; then
  echo "Debian packages are missing. Run this, then try again:" >&2
  echo "  sudo sh -c '$line'" >&2
  exit 1
fi
echo "installing: ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update >&2
apt-get install -y --no-install-recommends "${missing[@]}" >&2
