#!/usr/bin/env bash
# peer.sh WORKLOAD - runs Kafka Streams through one workload (W1..W6) and prints one JSON line. PEER_JVM: JVM options, default -Xmx1g
set -euo pipefail
cd "$(dirname "$0")"
export APP_NAME=${APP_NAME:-kafka-streams}
export APP_CMD="java ${PEER_JVM:--Xmx1g} -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp 'target/classes:target/peer-lib/*' bench.Peer"
exec ./judge.sh "$@"
