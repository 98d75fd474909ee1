#!/usr/bin/env bash
# Prints the directory of the programs of the commit that froze a level. They are built once, from git history.
set -euo pipefail
level=${1:?usage: tests/levels/programs.sh LEVEL}
cd "$(dirname "$0")/../.."
mark=tests/levels/$level/expected.json
commit=$(git log --diff-filter=A --format=%H -- "$mark" | tail -n 1)
if [ -z "$commit" ]; then
  echo "git history does not tell which commit froze level $level (which brought $mark): this needs a clone, not an export" >&2
  exit 1
fi
# At the end of a shallow clone every file seems to be new.
if ! git cat-file -e "$commit^" 2>/dev/null; then
  echo "git history ends at $commit, so the commit that froze level $level is not there: fetch it with git fetch --unshallow" >&2
  exit 1
fi
home=${XDG_CACHE_HOME:-$HOME/.cache}/borealis/level-$level-$commit
mkdir -p "$(dirname "$home")"
exec 9>"$home.lock"
flock 9
if [ ! -d "$home" ]; then
  work=$(mktemp -d "$home.building.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  mkdir "$work/source" "$work/programs"
  git archive "$commit" | tar -x -C "$work/source"
  (
    cd "$work/source"
    unset CARGO_TARGET_DIR ROCKSDB_LIB_DIR
    export CARGO_TARGET_DIR=$work/target BOREALIS_COMMIT=$commit
    ROCKSDB_LIB_DIR=$(deploy/setup/rocksdb.sh) ROCKSDB_STATIC=1 \
      cargo build --locked --bins -p scheduler -p agent -p executor -p client
  ) >&2
  for program in borealis borealis-scheduler borealis-agent borealis-executor; do
    cp "$work/target/debug/$program" "$work/programs/"
  done
  mv "$work/programs" "$home"
fi
echo "$home"
