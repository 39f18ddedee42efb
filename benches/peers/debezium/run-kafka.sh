#!/usr/bin/env bash
# run-kafka.sh [PORT] [CLASS_PATH] -- a scratch broker of one node in the foreground, on 127.0.0.1 (19092, its controller on the next port).
# Its data in build/kafka, thrown away at each start. Needs Java 17 and Maven.
set -euo pipefail
cd "$(dirname "$0")"
port=${1:-19092} d=$PWD/build/kafka
[ -e build/broker ] || mvn -q -B -f broker/pom.xml dependency:copy-dependencies -DoutputDirectory="$PWD/build/broker"
rm -rf "$d"; mkdir -p "$d"
cat >"$d/server.properties" <<P
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$((port + 1))
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
log.dirs=$d/data
num.partitions=1
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
P
java -cp 'build/broker/*' kafka.tools.StorageTool format -t YmVuY2gtYmVuY2gtYmVuYw -c "$d/server.properties" >"$d/format.log" 2>&1
exec java -Xmx512m -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp 'build/broker/*' kafka.Kafka "$d/server.properties"
