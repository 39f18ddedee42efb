-- The rows of the fixture: every kind of column that a header can come from, nulls, unicode, JSON of all sorts.
DROP TABLE IF EXISTS outbox_events;
CREATE TABLE outbox_events (
  id CHAR(36) PRIMARY KEY, aggregate_type VARCHAR(64) NOT NULL, aggregate_id VARCHAR(64) NOT NULL, event_type VARCHAR(64) NOT NULL,
  payload JSON NULL, created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  c_tiny TINYINT NULL, c_int INT NULL, c_uint INT UNSIGNED NULL, c_big BIGINT NULL, c_ubig BIGINT UNSIGNED NULL,
  c_text TEXT CHARACTER SET utf8mb4 NULL, c_binary BINARY(6) NULL, c_blob BLOB NULL,
  c_datetime DATETIME NULL, c_datetime3 DATETIME(3) NULL, c_datetime6 DATETIME(6) NULL, c_timestamp TIMESTAMP NULL, c_timestamp6 TIMESTAMP(6) NULL
) CHARACTER SET utf8mb4;
INSERT INTO outbox_events VALUES
 ('00000000-0000-0000-0000-000000000001','Order','1','OrderCreated','{"b": 1, "a":  [1, 2.50, "x"], "n": null, "": true}','2026-01-02 03:04:05.678901',
  1, 2, 3, 4, 5, 'text', 'abcdef', 'blob', '2026-01-02 03:04:05', '2026-01-02 03:04:05.678', '2026-01-02 03:04:05.678901', '2026-01-02 03:04:05', '2026-01-02 03:04:05.678901'),
 ('00000000-0000-0000-0000-000000000002','Order','1','OrderShipped','"just a string"','2026-01-02 03:04:06',
  -128, -2147483648, 4294967295, -9223372036854775808, 18446744073709551615, 'ö 😀 "quoted" \\ 주문', x'00ff00ff0000', x'', '1970-01-01 00:00:00', '2038-01-19 03:14:07.999', '9999-12-31 23:59:59.999999', '1970-01-01 00:00:01', '2038-01-19 03:14:07.000001'),
 ('00000000-0000-0000-0000-000000000003','Order','2','OrderCreated',NULL,'1970-01-01 00:00:00.000999',
  NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
 ('00000000-0000-0000-0000-000000000004','Order','ö-3','OrderCreated','{"é": "😀\\n\\t\\u0001\\\\\\"/", "주문번호": "ORD-1", "big": 18446744073709551615, "neg": -9223372036854775808}','2026-01-02 03:04:08.123456',
  0, 0, 0, 0, 0, '', x'01', x'01020304', '2026-01-02 03:04:05', '2026-01-02 03:04:05', '2026-01-02 03:04:05', '2026-01-02 03:04:05', '2026-01-02 03:04:05.1'),
 ('00000000-0000-0000-0000-000000000005','Payment','7','PaymentCompleted','[1e3, -2.5, 0.1, 123456789.123456789, 1e-7, 1.5e300, 0, -0.0, 65536, -32769, [], {}, [[]], false]','2026-01-02 03:04:09',
  127, 2147483647, 1, 9223372036854775807, 1, ' leading and trailing ', x'616200000000', x'00', '2026-01-02 03:04:05', '2026-01-02 03:04:05.001', '2026-01-02 03:04:05.000001', '2026-06-02 03:04:05', '2026-06-02 03:04:05.12'),
 ('00000000-0000-0000-0000-000000000006','Payment','8','PaymentCompleted','{"bb": 1, "a": 2, "ccc": {"z": [true, null]}, "ab": 3}','2026-01-02 03:04:10',
  1, 1, 1, 1, 1, 'a\\nb', 'x', 'y', '2026-01-02 03:04:05', '2026-01-02 03:04:05', '2026-01-02 03:04:05', '2026-01-02 03:04:05', '2026-01-02 03:04:05');
UPDATE outbox_events SET payload = '{}' WHERE aggregate_id = '1';
DELETE FROM outbox_events WHERE aggregate_id = '2';
