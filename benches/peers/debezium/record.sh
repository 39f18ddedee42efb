#!/usr/bin/env bash
# record.sh mariadb|mysql [ROWS] >FILE -- what the router makes of the rows that this project's own tests insert (rows.sql or more-rows.sql of topologies/tests/cdc/debezium), recorded from a
# broker, a server and Debezium of its own.
#   KAFKA_PORT (29192) DB_PORT (23306); needs what README.md names
set -euo pipefail
cd "$(dirname "$0")"
kind=${1:?mariadb or mysql} rows=../../../topologies/tests/cdc/debezium/${2:-rows.sql}
export KAFKA=127.0.0.1:${KAFKA_PORT:-29192} DB_PORT=${DB_PORT:-23306} TOPIC_PREFIX=fixture- STATE=$PWD/build/record-$kind POLL_MS=5 SNAPSHOT_MODE=no_data
export CONNECTOR=$STATE/connector.fixture
[ -x build/venv/bin/python ] || { python3 -m venv build/venv; build/venv/bin/pip install -q confluent-kafka pymysql cryptography; }
rm -rf "$STATE"; mkdir -p "$STATE"
placement=aggregate_type:header:aggregateType,event_type:header:eventType,created_at:header:createdAt
for c in $(sed '/^INSERT/,$d' $rows | grep -o '\bc_[a-z0-9]*' | sed 's/^c_//'); do placement+=,c_$c:header:$c; done
sed "s/^transforms.outbox.table.fields.additional.placement=.*/transforms.outbox.table.fields.additional.placement=$placement/" connector.properties >"$CONNECTOR"
pids=()
trap 'kill "${pids[@]}" 2>/dev/null; wait' EXIT
port_is_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
wait_for() { for _ in $(seq 600); do "$@" && return; sleep 0.1; done; echo "$* does not come" >&2; exit 1; }
echo auto.create.topics.enable=true >"$STATE/kafka.extra"
KAFKA_PORT=${KAFKA_PORT:-29192} KAFKA_HOME_DIR=$STATE/kafka KAFKA_EXTRA=$STATE/kafka.extra ../../../tests/kafka/kafka.sh run >"$STATE/kafka.log" 2>&1 & pids+=($!)
./run-db.sh "$kind" "$DB_PORT" >"$STATE/db.log" 2>&1 & pids+=($!)
wait_for port_is_open "${KAFKA_PORT:-29192}"
wait_for grep -q ready "$STATE/db.log"
# The router learns the columns from the table as it is when it starts.
sed '/^INSERT/,$d' $rows | mariadb --no-defaults -h127.0.0.1 -P"$DB_PORT" -uapp -papp app
LOG=info ./run-debezium.sh "$kind" >"$STATE/debezium.log" 2>&1 & pids+=($!)
wait_for grep -qi 'connected to.*binlog\|Keepalive thread is running\|Waiting for keepalive' "$STATE/debezium.log"
sed '1,/^) CHARACTER SET/d' $rows >"$STATE/rows.sql"
build/venv/bin/python record.py "$DB_PORT" "$KAFKA" "$TOPIC_PREFIX" "$STATE/rows.sql"
