#!/usr/bin/env bash
# with-mysql8.sh COMMAND... -- runs a command with a scratch MySQL 8 beside it, whose port is in CDC_MYSQL8_PORT (13307).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd) log=$(mktemp)
export CDC_MYSQL8_PORT=${CDC_MYSQL8_PORT:-13307}
"$here/run-db.sh" mysql "$CDC_MYSQL8_PORT" >"$log" 2>&1 & db=$!
trap 'kill $db 2>/dev/null; wait; rm -f "$log"' EXIT
for _ in $(seq 1200); do
  grep -q ready "$log" && break
  kill -0 $db 2>/dev/null || { cat "$log" >&2; exit 1; }
  sleep 0.1
done
"$@"
