#!/usr/bin/env bash
# Freezes a level: writes its golden directory with today's programs. See README.md.
set -euo pipefail
level=${1:?usage: tests/levels/freeze.sh LEVEL}
cd "$(dirname "$0")/../.."
to=$PWD/tests/levels/$level
[ ! -e "$to" ] || { echo "$to is there: a level is frozen once" >&2; exit 1; }
eval "$(make env)"
cargo build --locked --workspace --bins
mkdir -p "$to/commands" "$to/proto/borealis" "$to/proto/rpc"
cp proto/borealis/*.proto "$to/proto/borealis/"
cp proto/rpc/*.proto "$to/proto/rpc/"
BOREALIS_FREEZE_COMMANDS=$to/commands cargo test --locked -p engine --lib -- every_scenario_runs_as_written
BOREALIS_FREEZE=$level cargo test --locked -p tests --test it -- levels::a_level_is_frozen
du -sh "$to"
