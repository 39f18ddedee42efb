#!/usr/bin/env bash
# bench.sh SHOP -- this project's relay (SHOP is its binary) and Debezium, one after the other on the same broker and the same MariaDB, seen by the same consumer: latency at 500
# rows a second, then the drain of a backlog of 50,000 rows, three times. Before that each follows some rounds of rows that are shown and not counted: a broker and a Connect that
# have just started compile their own code for a minute, and whoever came first would pay for both.
#   KAFKA_PORT (29192, and the next) DB_PORT (23306) POLL_MS (5, Debezium's best setting for latency) ROUNDS (3) WARM_UP (6 rounds)
set -euo pipefail
shop=$(realpath "${1:?the binary of the shop}")
cd "$(dirname "$0")"
export KAFKA=127.0.0.1:${KAFKA_PORT:-29192} DB_PORT=${DB_PORT:-23306} STATE=$PWD/build/bench POLL_MS=${POLL_MS:-5} SNAPSHOT_MODE=no_data
[ -x build/venv/bin/python ] || { python3 -m venv build/venv; build/venv/bin/pip install -q confluent-kafka pymysql cryptography; }
rm -rf "$STATE"; mkdir -p "$STATE"
pids=()
trap 'kill "${pids[@]}" 2>/dev/null; wait' EXIT
port_is_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
wait_for() { for _ in $(seq 600); do "$@" && return; sleep 0.1; done; echo "$* does not come" >&2; exit 1; }
echo auto.create.topics.enable=true >"$STATE/kafka.extra"
# As Kafka's own scripts start it.
jvm="-Xms1g -Xmx1g -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35 -XX:+ExplicitGCInvokesConcurrent -XX:MaxInlineLevel=15"
KAFKA_JVM=$jvm KAFKA_PORT=${KAFKA_PORT:-29192} KAFKA_HOME_DIR=$STATE/kafka KAFKA_EXTRA=$STATE/kafka.extra ../../../tests/kafka/kafka.sh run >"$STATE/kafka.log" 2>&1 & pids+=($!)
./run-db.sh mariadb "$DB_PORT" >"$STATE/db.log" 2>&1 & pids+=($!)
wait_for port_is_open "${KAFKA_PORT:-29192}"
wait_for grep -q ready "$STATE/db.log"

used() { awk '{print $14+$15}' "/proc/$1/stat"; }
# measure NAME PID PREFIX: what follows the outbox as this process and writes topics of this prefix.
measure() {
  local before
  round() { build/venv/bin/python bench.py --port "$DB_PORT" --kafka "$KAFKA" --prefix "$1" --lat 2500 --gap-ms 2 "${@:2}"; }
  for _ in $(seq "${WARM_UP:-6}"); do round "$3" --rows 0 | sed "s/^/$1, warming up: /"; done
  for _ in $(seq "${ROUNDS:-3}"); do
    before=$(used "$2")
    round "$3" --rows 50000 --pause-pid "$2" | sed "s/^/$1: /"
    echo "$1: CPU $(( $(used "$2") - before ))0 ms, $(awk '/VmHWM/{print int($2/1024)}' "/proc/$2/status") MiB at most, load $(cut -d' ' -f1 /proc/loadavg)"
  done
}

"$shop" cdc --brokers "$KAFKA" --mysql "mysql://cdc:cdc@127.0.0.1:$DB_PORT/app" --state "$STATE/cdc" --listen 127.0.0.1:0 --cdc-snapshot no_data \
  --cdc-option 'route.topic.replacement=relay-${routedByValue}' --cdc-option table.fields.additional.placement=aggregate_type:header:aggregateType,event_type:header:eventType \
  >"$STATE/relay.log" 2>&1 & relay=$!; pids+=($relay)
wait_for grep -q 'follows the binlog' "$STATE/relay.log"
measure relay $relay relay-
kill $relay; wait $relay || true

LOG=info ./run-debezium.sh mariadb >"$STATE/debezium.log" 2>&1 & jvm=$!; pids+=($jvm)
wait_for grep -qi 'connected to.*binlog\|Keepalive thread is running\|Waiting for keepalive' "$STATE/debezium.log"
measure Debezium $jvm cdc-eval-
