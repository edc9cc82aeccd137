#!/usr/bin/env bash
# How long a silo takes to serve again when Redis holds the state of many grains, and how much memory it takes.
#   tests/bench/restart.sh GRANARY BROKERS REDIS_URL DEVICES [MEMORY_BYTES_MAX]
# Writes messages of DEVICES devices, two each, lets a silo apply them all, then kills it and starts it again, and stops it
# and starts it again. Servers: `cargo run --release -p granary-harness --example servers` says where it has started some.
set -euo pipefail
granary=$1 brokers=$2 redis=$3 devices=$4 memory=${5:-1073741824}

here=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
silo=
trap '[ -z "$silo" ] || kill -9 "$silo" 2>/dev/null || true; rm -rf "$work"' EXIT
cluster=bench-$$ topic=bench-$$
sed "s/topic: boontadata$/topic: $topic/; s/boontadata-results/$topic-results/" \
  "$here/deploy/examples/boontadata/pipeline.yaml" >"$work/pipeline.yaml"
cat >"$work/granary.toml" <<CONF
pipelines = ["pipeline.yaml"]
[cluster]
name = "$cluster"
[silo]
listen = "127.0.0.1:7411"
gateway = "127.0.0.1:7491"
memory_bytes_max = $memory
[store]
kind = "redis"
url = "$redis"
durability = "fsync"
[log]
kind = "kafka"
brokers = "$brokers"
CONF
conf=(-c "$work/granary.toml")

now_ms() { date +%s%3N; }

# Starts the silo and waits until it is ready and answers a call; prints how long each took.
serve() {
  local began ready
  began=$(now_ms)
  "$granary" silo "${conf[@]}" >>"$work/silo.log" 2>&1 &
  silo=$!
  until curl -fs -o "$work/readyz" http://127.0.0.1:7491/readyz; do
    kill -0 "$silo" 2>/dev/null || { cat "$work/silo.log" >&2; exit 1; }
    sleep 0.02
  done
  ready=$(now_ms)
  until "$granary" call Device/d-000042 get --silo 127.0.0.1:7411 >"$work/answer" 2>&1; do sleep 0.02; done
  printf '%-22s ready after %5d ms, a call answered after %5d ms, %d MiB\n' "$1" $((ready - began)) \
    $(($(now_ms) - began)) "$(memory_mib)"
}

memory_mib() { awk '/VmRSS/ {print int($2 / 1024)}' "/proc/$silo/status"; }

# Records of the topic that are not applied yet.
lag() {
  curl -fs http://127.0.0.1:7491/metrics | awk -v topic="topic=\"$topic\"" \
    'index($0, "granary_source_lag_records{") == 1 && index($0, topic) {sum += $2; any = 1} END {print any ? sum : "none"}'
}

"$granary" topics "${conf[@]}" >/dev/null
"$granary" inject --topic "$topic" --brokers "$brokers" --devices "$devices" --messages 2 --period-ms 4000 \
  --hot-devices 0 --truth "$work/truth.csv" "${conf[@]}"
serve "first start"
began=$(now_ms) peak=0
until [ "$(lag)" = 0 ]; do
  now=$(memory_mib)
  peak=$((now > peak ? now : peak))
  sleep 1
done
echo "applied after $(($(now_ms) - began)) ms; memory at most $peak MiB, now $(memory_mib) MiB (limit $((memory >> 20)) MiB for state)"
kill -9 "$silo"
{ wait "$silo" || true; } 2>/dev/null
serve "after kill -9"
kill -TERM "$silo"
wait "$silo"
serve "after a stop"
