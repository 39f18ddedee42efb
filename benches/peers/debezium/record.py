#!/usr/bin/env python3
"""Runs the statements of a file and prints what the router made of its rows, a JSON object a record. Called by record.sh."""
import json, sys, time
import confluent_kafka as ck, pymysql

port, kafka, prefix, sql = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
db = pymysql.connect(host="127.0.0.1", port=port, user="app", password="app", database="app", autocommit=True, charset="utf8mb4")
cur = db.cursor()
rows = open(sql, encoding="utf-8").read().count("('00000000-")
statements = [s for s in open(sql, encoding="utf-8").read().split(";\n") if s.strip()]
c = ck.Consumer({"bootstrap.servers": kafka, "group.id": "record%d" % time.time(), "auto.offset.reset": "earliest", "enable.auto.commit": False,
                 "topic.metadata.refresh.interval.ms": 500})
c.subscribe(["^" + prefix + "(Order|Payment|Marker).*"])
for s in statements: cur.execute(s)
cur.execute("INSERT INTO outbox_events (id, aggregate_type, aggregate_id, event_type) VALUES ('marker', 'Marker', '0', 'Marker')")
out, end, marked, seen = [], time.time() + 90, False, set()
while time.time() < end:
    m = c.poll(0.5)
    if m is None:
        if marked and len(out) >= rows and time.time() > quiet: break
        continue
    if m.error(): continue
    if m.topic() == prefix + "Marker": marked, quiet = True, time.time() + 5; continue
    quiet = time.time() + 5
    # Topics that appear make the consumer begin again.
    if (m.topic(), m.partition(), m.offset()) in seen: continue
    seen.add((m.topic(), m.partition(), m.offset()))
    text = lambda b: None if b is None else b.decode("utf-8")
    out.append({"topic": m.topic()[len(prefix):], "key": text(m.key()), "value": text(m.value()), "timestamp": m.timestamp()[1],
                "headers": [[n, text(v)] for n, v in m.headers() if not n.startswith("__debezium")]})
assert marked and len(out) >= rows, "%d of %d rows came" % (len(out), rows)
for r in sorted(out, key=lambda r: dict(map(tuple, r["headers"]))["id"]): print(json.dumps(r, ensure_ascii=False))
