#!/usr/bin/env bash
# The whole stack on loopback, for trying it out: Kafka, MariaDB, Redis, two workers, the API, the relay of the outbox, the sink and an endpoint for it.
#   stack.sh up SHOP     starts what does not run, waits until all of it is ready, and prints where everything is; SHOP is the shop's binary
#   stack.sh down        ends it, in order; data stays
#   stack.sh stop        ends the shop's processes only, as `shop reset` needs it; `up` starts them again
#   stack.sh status      says what runs
#   stack.sh wipe        removes the data of a stack that is down
# Settings by environment:
#   STACK_DIR            data, logs and process ids, default ~/.cache/millstream/stack
#   STACK_PORT           of the API, default 8080; the next five are the endpoint, the workers, the relay and the sink
#   STACK_KAFKA_PORT     default 9092, and the next; STACK_DB_PORT default 3307; STACK_REDIS_PORT default 6380
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
kafka=$here/../../tests/kafka/kafka.sh
dir=${STACK_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/millstream/stack}
api_port=${STACK_PORT:-8080}
endpoint_port=$((api_port + 1)) worker1_port=$((api_port + 2)) worker2_port=$((api_port + 3)) cdc_port=$((api_port + 4)) sink_port=$((api_port + 5))
# With as much heap as Kafka's own scripts give it, most of it for what is soon garbage, and collected by all cores: else everything waits 20 to 50 ms for it
# every few seconds under load.
export KAFKA_PORT=${STACK_KAFKA_PORT:-9092} KAFKA_HOME_DIR=$dir/kafka KAFKA_JVM="-Xms1g -Xmx1g -Xmn640m -XX:+UseParallelGC"
brokers=127.0.0.1:$KAFKA_PORT
db_port=${STACK_DB_PORT:-3307} db=$dir/mariadb
redis_port=${STACK_REDIS_PORT:-6380}
PATH=$PATH:/usr/sbin:/usr/local/sbin
# In the order they are ended.
shops=(sink cdc api worker1 worker2 endpoint)

fail() {
    printf 'stack: %s\n' "$1" >&2
    exit 1
}

# The process of a part, if it still is that part's.
pid() {
    local p
    p=$(cat "$dir/$1.pid" 2>/dev/null) && [ -n "$p" ] && cat "/proc/$p/cmdline" 2>/dev/null | tr '\0' ' ' | grep -qF -- "$2" && echo "$p"
}

# What is found again in the command line of each part.
mark() {
    case $1 in
    mariadb) echo "--datadir=$db" ;;
    redis) echo "redis-server" ;;
    endpoint) echo "--listen 127.0.0.1:$endpoint_port" ;;
    *) local port=$1_port; echo "--listen 127.0.0.1:${!port}" ;;
    esac
}

runs() { pid "$1" "$(mark "$1")" >/dev/null; }

# begin PART COMMAND…: in the background, in a session of its own, so that the terminal's signals do not reach it.
begin() {
    local part=$1
    shift
    if runs "$part"; then return; fi
    setsid "$@" >>"$dir/$part.log" 2>&1 </dev/null &
    echo $! >"$dir/$part.pid"
}

# Asks for a path over HTTP without a tool.
answers() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1" && printf 'GET %s HTTP/1.1\r\nhost: stack\r\nconnection: close\r\n\r\n' "$2" >&3 && head -1 <&3 | grep -q ' 200 ') 2>/dev/null
}

# await PART SECONDS COMMAND…: until the command succeeds.
await() {
    local part=$1 until=$((SECONDS + $2))
    shift 2
    until "$@"; do
        if ! runs "$part"; then tail -20 "$dir/$part.log" >&2; fail "$part has ended: see $dir/$part.log"; fi
        [ $SECONDS -lt $until ] || { tail -20 "$dir/$part.log" >&2; fail "$part is not ready: see $dir/$part.log"; }
        sleep 0.1
    done
}

db_answers() { client -e 'SELECT 1' >/dev/null 2>&1; }
client() { mariadb --no-defaults -uroot -S "$db/socket" "$@"; }

up() {
    local shop=${1:?the binary of the shop} user=()
    [ -x "$shop" ] || fail "$shop is not there: make build"
    for tool in mariadbd mariadb redis-server; do command -v $tool >/dev/null || fail "$tool is missing: make setup installs it"; done
    mkdir -p "$dir"
    setsid -w "$kafka" start >/dev/null || fail "Kafka did not start: see $dir/kafka/kafka.out"
    # MariaDB refuses to run as root unless it is told to.
    if [ "$(id -u)" -eq 0 ]; then user=(--user=root); fi
    if [ ! -d "$db/mysql" ]; then
        rm -rf "$db"
        mariadb-install-db --no-defaults "${user[@]}" --datadir="$db" --auth-root-authentication-method=normal --skip-test-db \
            >"$dir/mariadb-install.log" 2>&1 || fail "MariaDB cannot be set up: see $dir/mariadb-install.log"
    fi
    begin mariadb mariadbd --no-defaults "${user[@]}" --datadir="$db" --port="$db_port" --bind-address=127.0.0.1 --socket="$db/socket" --skip-name-resolve \
        --log-bin=binlog --binlog-format=ROW --binlog-row-image=FULL --binlog-row-metadata=FULL --sync-binlog=1 --server-id=1 --innodb-buffer-pool-size=64M
    mkdir -p "$dir/redis"
    begin redis redis-server --bind 127.0.0.1 --port "$redis_port" --dir "$dir/redis" --save "" --appendonly no
    begin endpoint "$shop" receive --listen "127.0.0.1:$endpoint_port"
    await mariadb 60 db_answers
    client <<'SQL'
CREATE DATABASE IF NOT EXISTS shop CHARACTER SET utf8mb4;
CREATE USER IF NOT EXISTS 'shop'@'%' IDENTIFIED BY 'shop';
GRANT ALL ON shop.* TO 'shop'@'%';
GRANT REPLICATION SLAVE, BINLOG MONITOR, RELOAD ON *.* TO 'shop'@'%';
SQL
    local mysql=mysql://shop:shop@127.0.0.1:$db_port/shop
    on() { # on PART PORT COMMAND ARGS…: a process of the shop on the cluster
        local part=$1 port=$2
        shift 2
        begin "$part" "$shop" "$@" --brokers "$brokers" --listen "127.0.0.1:$port" --state "$dir/$part"
    }
    on worker1 "$worker1_port" worker --standbys 1 --threads 2
    on worker2 "$worker2_port" worker --standbys 1 --threads 2
    on api "$api_port" api --mysql "$mysql" --redis "redis://127.0.0.1:$redis_port"
    on cdc "$cdc_port" cdc --mysql "$mysql"
    on sink "$sink_port" sink --url "http://127.0.0.1:$endpoint_port/events"
    for part in endpoint worker1 worker2 api cdc sink; do
        local port=${part}_port
        await $part 120 answers "${!port}" /readyz
    done
    cat <<TEXT
The stack is up. Logs and process ids are in $dir.
  API, events, web page   http://127.0.0.1:$api_port
  workers                 http://127.0.0.1:$worker1_port/healthz and $worker2_port; their views: /views, figures: /metrics
  relay of the outbox     http://127.0.0.1:$cdc_port/metrics
  sink                    http://127.0.0.1:$sink_port/metrics
  what it delivered       http://127.0.0.1:$endpoint_port/events
  Kafka                   $brokers
  MariaDB                 $mysql (socket $db/socket)
  Redis                   redis://127.0.0.1:$redis_port
TEXT
}

# Asks a process to end, and makes it after so many seconds.
end() {
    local p
    p=$(pid "$1" "$(mark "$1")") || { rm -f "$dir/$1.pid"; return 0; }
    kill "$p" 2>/dev/null || true
    local until=$((SECONDS + $2))
    while kill -0 "$p" 2>/dev/null; do
        if [ $SECONDS -ge $until ]; then
            echo "stack: $1 did not end within $2 s and is killed" >&2
            kill -9 "$p" 2>/dev/null || true
            break
        fi
        sleep 0.1
    done
    rm -f "$dir/$1.pid"
}

stop() {
    for part in "${shops[@]}"; do end "$part" 15 & done
    wait
}

down() {
    # The shop first, while there is a cluster to say goodbye to; all at once.
    stop
    end redis 15 &
    end mariadb 30 &
    "$kafka" stop >/dev/null &
    wait
    echo "The stack is down. Its data is in $dir; topologies/operations/stack.sh wipe removes it."
}

status() {
    for part in "${shops[@]}" mariadb redis; do
        if runs "$part"; then echo "$part runs, pid $(cat "$dir/$part.pid")"; else echo "$part does not run"; fi
    done
    echo "Kafka: $("$kafka" status)"
}

case ${1:-} in
up) up "${2:-}" ;;
down) down ;;
stop)
    stop
    echo "The shop's processes are stopped. Kafka is $brokers; stack.sh up starts them again."
    ;;
status) status || true ;;
wipe)
    for part in "${shops[@]}" mariadb redis; do if runs "$part"; then fail "$part runs: stop it first"; fi; done
    "$kafka" wipe
    rm -rf "$dir"
    ;;
*)
    sed -n '2,12s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
