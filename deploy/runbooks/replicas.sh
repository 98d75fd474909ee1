# Replicas and agents on one machine, to practise on. Where systemd runs them, `start` and `stop` are
# `systemctl start|stop borealis-scheduler` on the replica's host, and its options stand in the unit's environment file.
#
# Beforehand: the four programs in PATH, an empty directory in DIR, and for replicas a, b, c, d their API addresses in
# A, B, C, D and their raft addresses in A_RAFT, B_RAFT, C_RAFT, D_RAFT.

# start REPLICA [OPTION...]
start() {
  local name=$1 api=${1^^} raft=${1^^}_RAFT
  borealis-scheduler --dir "$DIR/$name" --cluster devcluster --api "${!api}" --raft "${!raft}" \
    --profile lan --accept-slow-disk "${@:2}" 2>>"$DIR/$name.log" &
  echo $! >"$DIR/$name.pid"
  patiently 'curl -fs -o /dev/null http://${!api}/metrics || ! kill -0 $(cat $DIR/$name.pid)' "$api"
  kill -0 "$(cat "$DIR/$name.pid")"
}

# stop REPLICA, in order; crash REPLICA, as a power cut would
stop() { end TERM "$1"; }
crash() { end KILL "$1"; }
end() {
  kill -"$1" "$(cat "$DIR/$2.pid")"
  wait "$(cat "$DIR/$2.pid")" || true
}

# agents NAME: five hosts whose tasks only pretend
agents() {
  borealis-agent --simulated 5 --name "$1" --cpus 8 --ram-mib 8192 --disk-mib 8192 --dir "$DIR/$1" \
    --schedulers "$A,$B,$C" 2>>"$DIR/$1.log" &
  echo $! >"$DIR/$1.pid"
}

# patiently 'COMMAND' [API-VARIABLE]: until it succeeds, for a minute at most
patiently() {
  local api=${2:-A} deadline=$((SECONDS + 60))
  until eval "$1" >/dev/null 2>&1; do
    if [ $SECONDS -gt $deadline ]; then
      echo "not within a minute: $1" >&2
      return 1
    fi
    sleep 0.1
  done
}

# voters N: until so many vote and nothing is missing
voters() {
  patiently "[ \"\$(count_voters)\" = $1 ]"
}
count_voters() {
  borealis cluster status --json | python3 -c '
import json, sys
replicas = json.load(sys.stdin)["replicas"]
leaders = [r for r in replicas if r.get("leader") and r["leader"] == r.get("node_id")]
print(sum(m["voter"] for m in leaders[0]["members"]) if leaders else 0)'
}

# node REPLICA: its node id
node() {
  local api=${1^^}
  borealis cluster status --addr "${!api}" --json | python3 -c "
import json, sys
print('node-%d' % next(r['node_id'] for r in json.load(sys.stdin)['replicas'] if r['address'] == '${!api}'))"
}

# three_replicas: a cluster of a, b and c
three_replicas() {
  export BOREALIS_ADDR=$A,$B,$C
  start a && start b && start c
  borealis cluster init --addr "$A"
  borealis cluster join --addr "$B" --via "$A"
  borealis cluster join --addr "$C" --via "$A"
  voters 3
}
