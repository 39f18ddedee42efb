#!/usr/bin/env bash
# Apache Kafka on loopback, for tests and for trying things out: one node, broker and controller in one.
#   kafka.sh run      in the foreground, until a signal ends it
#   kafka.sh start    in the background, and waits until it serves; then: stop | status | wipe
#   kafka.sh jars     fetches Kafka if it is not there, and prints where it lies
#   kafka.sh tool CLASS ARGS…   runs one of Kafka's command-line tools, as org.apache.kafka.tools.TopicCommand
# Settings by environment:
#   KAFKA_PORT         where clients connect, default 9092; the controller takes the next one, or KAFKA_CONTROLLER_PORT
#   KAFKA_PROTOCOL     of the clients' listener, default PLAINTEXT
#   KAFKA_HOME_DIR     data, configuration and output, default ~/.cache/millstream/kafka-$KAFKA_PORT
#   KAFKA_NODE         its number in its cluster, default 1, which is alone unless KAFKA_EXTRA names other voters
#   KAFKA_EXTRA        a file of further broker properties, which win
#   KAFKA_SCRAM        SCRAM users for a new data directory, as 'SCRAM-SHA-256=[name=alice,password=secret]', several by ';'
#   KAFKA_JVM          JVM options, default -Xmx1g
#   KAFKA_VERSION      another version of Kafka than the one of pom.xml
# Kafka comes from Maven Central and is kept in ~/.cache/millstream, outside of the clone.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
version=${KAFKA_VERSION:-$(sed -n 's/.*<kafka.version>\(.*\)<.*/\1/p' "$here/pom.xml")}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/millstream
lib=$cache/kafka-$version
port=${KAFKA_PORT:-9092}
controller=${KAFKA_CONTROLLER_PORT:-$((port + 1))}
node=${KAFKA_NODE:-1}
protocol=${KAFKA_PROTOCOL:-PLAINTEXT}
home=${KAFKA_HOME_DIR:-$cache/kafka-$port}
read -r -a jvm <<<"${KAFKA_JVM:--Xmx1g}"

fail() {
    printf 'kafka.sh: %s\n' "$1" >&2
    exit 1
}

# Several may ask at once: each fetches into a directory of its own, and the first to finish gives it the name.
fetch() {
    [ -d "$lib" ] && return
    command -v java >/dev/null || fail "Java is missing: make setup installs it"
    command -v mvn >/dev/null || fail "Maven is missing: make setup installs it"
    mkdir -p "$cache"
    local part
    part=$(mktemp -d "$cache/kafka-$version.part.XXXXXX")
    echo "kafka.sh: fetching Apache Kafka $version" >&2
    mvn -q -B -f "$here/pom.xml" "-Dkafka.version=$version" dependency:copy-dependencies -DincludeScope=runtime "-DoutputDirectory=$part" >&2 ||
        { rm -rf "$part"; fail "Maven could not fetch Apache Kafka $version"; }
    mv -T "$part" "$lib" 2>/dev/null || rm -rf "$part"
}

configure() {
    mkdir -p "$home"
    cat >"$home/server.properties" <<P
process.roles=broker,controller
node.id=$node
controller.quorum.voters=$node@127.0.0.1:$controller
listeners=$protocol://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=$protocol://127.0.0.1:$port
controller.listener.names=CONTROLLER
log.dirs=$home/data
auto.create.topics.enable=false
num.partitions=1
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
# Members that die or leave are noticed as soon as the members themselves ask for it: Kafka's own lower bounds are 45 s and 5 s.
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.min.heartbeat.interval.ms=100
P
    [ -z "${KAFKA_EXTRA:-}" ] || cat "$KAFKA_EXTRA" >>"$home/server.properties"
    [ ! -f "$home/data/meta.properties" ] || return 0
    local scram=() user
    while IFS= read -r -d ';' user; do [ -z "$user" ] || scram+=(--add-scram "$user"); done <<<"${KAFKA_SCRAM:-};"
    # A formatted directory is always the same for a node, so all but those with users of their own are copies of one.
    local empty=$lib.formatted-$node
    if [ ${#scram[@]} -gt 0 ] || [ ! -d "$empty" ]; then
        java -Xmx128m -XX:TieredStopAtLevel=1 -cp "$lib/*" kafka.tools.StorageTool format -t "${KAFKA_CLUSTER_ID:-bWlsbHN0cmVhbS1rYWZrYQ}" \
            -c "$home/server.properties" "${scram[@]}" >"$home/format.out" 2>&1 || { cat "$home/format.out" >&2; exit 1; }
        [ ${#scram[@]} -gt 0 ] || { cp -a "$home/data" "$empty.$$" && mv -T "$empty.$$" "$empty" 2>/dev/null || rm -rf "$empty.$$"; }
    else
        cp -a "$empty" "$home/data"
    fi
}

run() {
    exec java "${jvm[@]}" -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -Dorg.slf4j.simpleLogger.showDateTime=true \
        -Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info \
        -cp "$lib/*" kafka.Kafka "$home/server.properties"
}

pid() {
    local p
    p=$(cat "$home/pid" 2>/dev/null) && grep -qaF "$home/server.properties" "/proc/$p/cmdline" 2>/dev/null && echo "$p"
}

case ${1:-} in
run)
    fetch
    configure
    run
    ;;
start)
    if p=$(pid); then echo "already running, pid $p, 127.0.0.1:$port" && exit 0; fi
    fetch
    configure
    (run >"$home/kafka.out" 2>&1 </dev/null & echo $! >"$home/pid")
    for _ in $(seq 300); do
        if grep -q 'Kafka Server started' "$home/kafka.out"; then echo "started, pid $(pid), 127.0.0.1:$port" && exit 0; fi
        pid >/dev/null || sleep 0.5 && pid >/dev/null || { tail -20 "$home/kafka.out" >&2; fail "Kafka ended"; }
        sleep 0.2
    done
    fail "not up after 60 s: see $home/kafka.out"
    ;;
stop)
    p=$(pid) || { echo "not running" && exit 0; }
    kill "$p"
    for _ in $(seq 150); do kill -0 "$p" 2>/dev/null || break; sleep 0.2; done
    kill -9 "$p" 2>/dev/null || true
    rm -f "$home/pid"
    echo "stopped pid $p"
    ;;
status) p=$(pid) && echo "running, pid $p, 127.0.0.1:$port" || { echo "not running" && exit 1; } ;;
wipe)
    if pid >/dev/null; then fail "stop it first"; fi
    rm -rf "$home"
    ;;
jars) fetch && echo "$lib" ;;
tool)
    shift
    fetch
    exec java -Xmx256m -XX:TieredStopAtLevel=1 -cp "$lib/*" "$@"
    ;;
*)
    sed -n '2,16s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
