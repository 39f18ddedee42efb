#!/usr/bin/env bash
# million-orders.sh SHOP -- ORDERS (1,000,000) orders of two lines and their payments, told by the outbox of a scratch MariaDB. Then: what an order
# takes on disk, and how soon the shop is ready again after kill -9, at rest and in the middle of 60,000 further orders.
#   DATA (a temporary directory) is where the shop has its data; it and the database are thrown away.
set -euo pipefail
shop=$(realpath "${1:?usage: million-orders.sh PATH_OF_SHOP}") orders=${ORDERS:-1000000}
cd "$(dirname "$0")/peers/debezium"
data=${DATA:-$(mktemp -d)} listen=127.0.0.1:$((20000 + RANDOM % 10000)) port=$((30000 + RANDOM % 10000))
url=http://$listen server='' scratch=$(mktemp -d)
sql() { mariadb --no-defaults -h127.0.0.1 -P"$port" -uroot app -e "$1"; }
# shellcheck disable=SC2317  # called by the trap
stop() {
    kill "$server" "$db" 2>/dev/null || true
    wait
    rm -rf "$data" "$scratch"
}
./run-db.sh mariadb "$port" >"$scratch/db.log" 2>&1 & db=$!
trap stop EXIT
until grep -q ready "$scratch/db.log"; do kill -0 "$db"; sleep 0.1; done

# Starts the shop and says how long it took, in milliseconds, until it was ready.
start() {
    local began
    began=$(date +%s%N)
    "$shop" dev --listen "$listen" --data "$data" --log-level error --mysql "mysql://root@127.0.0.1:$port/app" >>"$scratch/shop.log" 2>&1 &
    server=$!
    until curl -sf -o /dev/null "$url/readyz"; do kill -0 "$server"; sleep 0.005; done
    ready=$((($(date +%s%N) - began) / 1000000))
}
metric() { curl -s "$url/metrics" | sed -n "s/^$1 //p"; }
kill_it() { kill -9 "$server"; wait "$server" 2>/dev/null || true; }

# Orders and payments from number $1 to $2, as rows of the outbox.
tell() {
    local price='(1 + seq % 20) * 100' other='(1 + (seq + 7) % 20) * 200'
    sql "INSERT INTO outbox_events (id, aggregate_type, aggregate_id, event_type, payload, created_at)
          SELECT UUID(), 'Order', seq, 'OrderCreated', JSON_OBJECT('orderId', seq, 'orderNumber', CONCAT('OUT-', seq), 'userId', 1 + seq % 50000,
            'items', JSON_ARRAY(JSON_OBJECT('productId', 1 + seq % 20, 'quantity', 1, 'unitPrice', $price),
                                JSON_OBJECT('productId', 1 + (seq + 7) % 20, 'quantity', 2, 'unitPrice', $other DIV 2)),
            'totalAmount', $price + $other, 'usePoints', 0, 'createdAt', '2026-01-31T12:00:00Z'), UTC_TIMESTAMP(6) FROM seq_$1_to_$2;
         INSERT INTO outbox_events (id, aggregate_type, aggregate_id, event_type, payload, created_at)
          SELECT UUID(), 'Payment', seq, 'PaymentCompleted', JSON_OBJECT('paymentId', seq, 'orderId', seq, 'userId', 1 + seq % 50000,
            'amount', $price + $other, 'paidAt', '2026-01-31T12:00:00Z'), UTC_TIMESTAMP(6) FROM seq_$1_to_$2"
}

start
for product in $(seq 20); do
    curl -sf -o /dev/null "$url/api/products" -H 'content-type: application/json' \
        -d "{\"productId\":$product,\"name\":\"Product $product\",\"price\":$((product * 100)),\"stock\":1000000000}"
done
began=$SECONDS
for ((first = 1; first <= orders; first += 20000)); do
    tell "$first" $((first + 19999 < orders ? first + 19999 : orders))
done
until [ "$(metric order_completed_count)" = "$orders" ]; do sleep 1; done
echo "$orders orders are confirmed after $((SECONDS - began)) s; resident memory $(($(sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$server/status") / 1024)) MiB"
until [ "$(metric millstream_state_dirty_bytes)" = 0 ]; do sleep 1; done
echo "state takes $(($(metric millstream_state_disk_bytes) / orders)) bytes an order; $(du -sm "$data/state" | cut -f1) MiB on disk, and the log $(du -sm "$data/log" | cut -f1) MiB"
kill_it
start
echo "killed at rest: ready after $ready ms; resident memory $(($(sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$server/status") / 1024)) MiB"
tell $((orders + 1)) $((orders + 60000))
until [ "$(metric order_completed_count)" -gt $((orders + 30000)) ]; do sleep 0.02; done
dirty=$(metric millstream_state_dirty_bytes)
kill_it
start
echo "killed with $((dirty >> 20)) MiB of rows not on disk: ready after $ready ms, with $(metric millstream_restored_records_total) changelog records"
until [ "$(metric order_completed_count)" = $((orders + 60000)) ]; do sleep 0.1; done
echo "and all $((orders + 60000)) orders are confirmed, once"
