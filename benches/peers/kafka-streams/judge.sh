#!/usr/bin/env bash
# judge.sh W1|W2|W3|W4|W5|W6|purge  - runs one workload with the application APP_CMD (name APP_NAME) and prints one JSON line
# judge.sh gen count|join|dedup|all - creates and fills the input topics
# judge.sh summary FILE             - median (min-max) of every field of the JSON lines in FILE
# judge.sh table FILE               - the same side by side, in Markdown
# judge.sh broker start|stop|status|wipe
# The broker is started if it is not up. Knobs: N, KAFKA_PORT, BENCH_COMMIT_MS (W4), LIMIT_S, POLL_MS (README.md)
set -euo pipefail
cd "$(dirname "$0")"
export KAFKA_PORT=${KAFKA_PORT:-19192} KAFKA_HOME_DIR=$PWD/target/run/kafka KAFKA_EXTRA=$PWD/broker.properties KAFKA_JVM='-Xms1g -Xmx1g'
kafka() { ../../../tests/kafka/kafka.sh "$@"; }
command -v javac >/dev/null || { echo "judge.sh: a Java compiler is missing: apt-get install openjdk-17-jdk-headless" >&2; exit 1; }
[ -d target/classes/bench ] && [ -z "$(find src pom.xml -newer target/classes/bench/Judge.class 2>/dev/null)" ] || mvn -q -B package >&2
run() { java -Xmx1g -XX:+UseSerialGC -Dorg.slf4j.simpleLogger.defaultLogLevel=error -cp 'target/classes:target/peer-lib/*' "$@"; }
case ${1:-} in
summary) run bench.Judge summary "$2"; exit ;;
table) run bench.Table "$2"; exit ;;
broker) kafka "$2"; exit ;;
esac
kafka status >/dev/null || kafka start >&2
BROKER_PID=${BROKER_PID:-$(kafka status | sed 's/.*pid \([0-9]*\).*/\1/')}
export BROKER_PID BENCH_BOOTSTRAP=${BENCH_BOOTSTRAP:-127.0.0.1:$KAFKA_PORT}
case ${1:-} in
gen) shift; run bench.Gen "$@" ;;
W[1-6]|purge) run bench.Judge "$1" ;;
*) sed -n 2,7p "$0"; exit 2 ;;
esac
