#!/usr/bin/env bash
# Claims and orders on a release build that is killed with -9 and started again every EVERY seconds, for SECONDS_N seconds; at the end the
# load generator checks every invariant through the public API, and the shop is killed once more to see how soon it is ready again.
# `make crashrun`; SECONDS_N=60 EVERY=10 for a short one, LOAD="--coupons" or LOAD="--orders" for one half of it.
set -euo pipefail
shop=${1:?usage: crash-run.sh PATH_OF_SHOP}
seconds=${SECONDS_N:-600} every=${EVERY:-20} users=${USERS_N:-5000} rate=${RATE:-1000} what=${LOAD:---coupons --orders}
data=$(mktemp -d)
listen=127.0.0.1:$((20000 + RANDOM % 20000))
log=$data/shop.log
server=

start() {
    "$shop" dev --listen "$listen" --data "$data/data" --log-level warn >>"$log" 2>&1 &
    server=$!
}
ready() {
    until curl -sf "http://$listen/readyz" >/dev/null; do
        kill -0 "$server" || { cat "$log"; exit 1; }
        sleep 0.02
    done
}
# shellcheck disable=SC2317  # called by the trap
stop() {
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    rm -rf "$data"
}
trap stop EXIT

start
ready
# shellcheck disable=SC2086  # several flags
"$shop" load --url "http://$listen" $what --seconds "$seconds" --users "$users" --rate "$rate" --listeners 200 &
load=$!
kills=0
end=$((SECONDS + seconds))
while [ $((SECONDS + every)) -le "$end" ] && kill -0 "$load" 2>/dev/null; do
    sleep "$every"
    kill -9 "$server"
    wait "$server" 2>/dev/null || true
    start
    kills=$((kills + 1))
done
status=0
wait "$load" || status=$?
echo "killed with -9 and started again $kills times; data directory $(du -sm "$data/data" | cut -f1) MiB"
echo "resident memory $(($(sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$server/status") / 1024)) MiB"
kill -9 "$server"
wait "$server" 2>/dev/null || true
killed=$(date +%s%N)
start
ready
echo "ready again $((($(date +%s%N) - killed) / 1000000)) ms after a kill, with $(du -sm "$data/data/state" | cut -f1) MiB of state on disk"
grep -v '^shop serves on' "$log" | tail -n 20 || true
exit "$status"
