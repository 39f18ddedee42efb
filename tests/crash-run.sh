#!/usr/bin/env bash
# A rush on a release build that is killed with -9 and started again every EVERY seconds, for SECONDS_N seconds; at the end the load
# generator checks every invariant through the public API. `make crashrun`; SECONDS_N=60 EVERY=10 for a short one.
set -euo pipefail
shop=${1:?usage: crash-run.sh PATH_OF_SHOP}
seconds=${SECONDS_N:-300} every=${EVERY:-20} users=${USERS_N:-5000} rate=${RATE:-max}
data=$(mktemp -d)
listen=127.0.0.1:$((20000 + RANDOM % 20000))
log=$data/shop.log
server=

start() {
    "$shop" dev --listen "$listen" --data "$data/data" --log-level warn >>"$log" 2>&1 &
    server=$!
}
# shellcheck disable=SC2317  # called by the trap
stop() {
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    rm -rf "$data"
}
trap stop EXIT

start
until curl -sf "http://$listen/readyz" >/dev/null; do
    kill -0 "$server" || { cat "$log"; exit 1; }
    sleep 0.1
done
"$shop" load --url "http://$listen" --coupons --seconds "$seconds" --users "$users" --rate "$rate" --listeners 200 &
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
grep -v '^shop serves on' "$log" | tail -n 20 || true
exit "$status"
