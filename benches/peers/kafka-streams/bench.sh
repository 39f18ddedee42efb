#!/usr/bin/env bash
# bench.sh DIRECTORY - every workload with Kafka Streams and with the applications bench-app and bench-floor in DIRECTORY, in turn, and the table
# of it into ../../RESULTS.md. `make bench-peers` builds them first. N: records (README.md); ROUNDS: runs of each, default 3;
# WORKLOADS: which, default all; RESULTS: another file for the table; RUNS: a file of earlier runs that these are added to.
set -euo pipefail
bin=$(cd "${1:?usage: bench.sh DIRECTORY}" && pwd)
cd "$(dirname "$0")"
rounds=${ROUNDS:-3} workloads=${WORKLOADS:-W1 W5 W2 W3 W4 W6} results=${RESULTS:-../../RESULTS.md}
mkdir -p target/run
runs=${RUNS:-target/run/$(date -u +%Y%m%dT%H%M%SZ).jsonl}
peer() { ./peer.sh "$@" | tee -a "$runs"; }
ours() { APP_NAME=millstream APP_CMD="'$bin/bench-app'" ./judge.sh "$@" | tee -a "$runs"; }
floor() { FLOOR_OUTPUTS=$1 APP_NAME="bare-rdkafka-$1" APP_CMD="'$bin/bench-floor'" CHECK=no ./judge.sh "$2" | tee -a "$runs"; }
load() { cut -d' ' -f1-3 /proc/loadavg; }

before=$(load)
begun=$(date -u +%H:%M)
[ ! -s "$runs" ] || begun="$(sed -n '1s/.*"at":"[^T]*T\([0-9:]\{5\}\).*/\1/p' "$runs")"
# It warms the broker up and does not count.
N=${N:-200000} ./peer.sh W1 >/dev/null
for workload in $workloads; do
  for _ in $(seq "$rounds"); do
    case $workload in
    W1) peer W1; ours W1; floor 1 W1; floor 2 W1 ;;
    W4)
      for commit in 100 20; do
        export BENCH_COMMIT_MS=$commit
        peer W4; ours W4
        unset BENCH_COMMIT_MS
      done ;;
    *) peer "$workload"; ours "$workload" ;;
    esac
  done
done
# The same gets and puts straight on RocksDB: the newest build of the engine's bench.
engine=$(find "$bin/deps" -maxdepth 1 -name 'engine-*' -perm -u+x -type f -printf '%T@ %p\n' 2>/dev/null | sort -n | tail -1 | cut -d' ' -f2-)
rocksdb=$([ -z "$engine" ] || BENCH_VARIANT=rocksdb "$engine" | awk '{v[$1] = $2} END {printf "%d records/s, %.2f CPU s per million, %d MiB", v["records_per_s"], v["cpu_s_per_million"], v["peak_mib"]}')
{
  echo "$(date -u +%F), $begun to $(date -u +%H:%M) UTC; $(nproc) cores ($(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)), $(awk '/MemTotal/{print int($2/1048576)}' /proc/meminfo) GiB."
  echo "Load average (1, 5, 15 minutes) $before before and $(load) after. Median (minimum-maximum) of the runs, in turn; N = ${N:-default}."
  echo
  ./judge.sh table "$runs"
  [ -z "$rocksdb" ] || echo "W1's gets and puts straight on RocksDB, one thread, no log: $rocksdb."
} >target/run/table.md
# Everything between the marks is replaced, the rest of the file is kept.
[ -f "$results" ] || printf '<!-- figures -->\n<!-- end of figures -->\n' >"$results"
sed -i -e '/^<!-- figures -->$/,/^<!-- end of figures -->$/{/^<!--/!d}' -e '/^<!-- figures -->$/r target/run/table.md' "$results"
cat target/run/table.md
