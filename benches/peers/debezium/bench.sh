#!/usr/bin/env bash
# bench.sh -- Debezium's latency at 500 rows a second and its drain of 50,000 rows, three times, on a broker and a MariaDB of its own.
#   KAFKA_PORT (29192) DB_PORT (23306) POLL_MS (5, its best setting for latency) ROUNDS (3)
set -euo pipefail
cd "$(dirname "$0")"
export KAFKA=127.0.0.1:${KAFKA_PORT:-29192} DB_PORT=${DB_PORT:-23306} STATE=$PWD/build/bench POLL_MS=${POLL_MS:-5} SNAPSHOT_MODE=no_data
[ -x build/venv/bin/python ] || { python3 -m venv build/venv; build/venv/bin/pip install -q confluent-kafka pymysql cryptography; }
rm -rf "$STATE"; mkdir -p "$STATE"
pids=()
trap 'kill "${pids[@]}" 2>/dev/null; wait' EXIT
port_is_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
wait_for() { for _ in $(seq 600); do "$@" && return; sleep 0.1; done; echo "$* does not come" >&2; exit 1; }
echo auto.create.topics.enable=true >"$STATE/kafka.extra"
KAFKA_PORT=${KAFKA_PORT:-29192} KAFKA_HOME_DIR=$STATE/kafka KAFKA_EXTRA=$STATE/kafka.extra ../../../tests/kafka/kafka.sh run >"$STATE/kafka.log" 2>&1 & pids+=($!)
./run-db.sh mariadb "$DB_PORT" >"$STATE/db.log" 2>&1 & pids+=($!)
wait_for port_is_open "${KAFKA_PORT:-29192}"
wait_for grep -q ready "$STATE/db.log"
LOG=info ./run-debezium.sh mariadb >"$STATE/debezium.log" 2>&1 & jvm=$!; pids+=($jvm)
wait_for grep -qi 'connected to.*binlog\|Keepalive thread is running\|Waiting for keepalive' "$STATE/debezium.log"
for round in $(seq "${ROUNDS:-3}"); do
  lat=0; [ "$round" = 1 ] && lat=2500
  before=$(awk '{print $14+$15}' "/proc/$jvm/stat")
  build/venv/bin/python bench.py --port "$DB_PORT" --kafka "$KAFKA" --lat $lat --gap-ms 2 --rows 50000 --pause-pid "$jvm"
  echo "CPU of the JVM $(( ($(awk '{print $14+$15}' "/proc/$jvm/stat") - before) / 100 )) s, $(awk '/VmHWM/{print int($2/1024)}' "/proc/$jvm/status") MiB at most"
done
