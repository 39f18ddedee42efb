-- More kinds of columns that a header can come from: numbers with a fraction, truth, choices, dates and times.
DROP TABLE IF EXISTS outbox_events;
CREATE TABLE outbox_events (
  id CHAR(36) PRIMARY KEY, aggregate_type VARCHAR(64) NOT NULL, aggregate_id VARCHAR(64) NOT NULL, event_type VARCHAR(64) NOT NULL,
  payload JSON NULL, created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  c_decimal DECIMAL(12,2) NULL, c_decimal0 DECIMAL(20,0) NULL, c_bool BOOLEAN NULL, c_enum ENUM('small','large','ö') NULL, c_set SET('a','b','c') NULL,
  c_date DATE NULL, c_time TIME NULL, c_time3 TIME(3) NULL, c_time6 TIME(6) NULL, c_year YEAR NULL, c_bit1 BIT(1) NULL, c_bit10 BIT(10) NULL,
  c_float FLOAT NULL, c_double DOUBLE NULL
) CHARACTER SET utf8mb4;
INSERT INTO outbox_events VALUES
 ('00000000-0000-0000-0000-000000000001','Order','1','OrderCreated','{}','2026-01-02 03:04:05.678901',
  12.30, 12345678901234567890, TRUE, 'large', 'a,c', '2026-01-02', '03:04:05', '03:04:05.678', '03:04:05.678901', 2026, b'1', b'1000000001', 1.5, 0.1),
 ('00000000-0000-0000-0000-000000000002','Order','2','OrderCreated','{}','2026-01-02 03:04:06',
  -0.05, -1, FALSE, 'ö', '', '1969-12-31', '00:00:00', '00:00:00.001', '23:59:59.999999', 1901, b'0', b'0000000000', -3.25, 1e10),
 ('00000000-0000-0000-0000-000000000003','Order','3','OrderCreated','{}','2026-01-02 03:04:07',
  NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
 ('00000000-0000-0000-0000-000000000004','Order','4','OrderCreated','{}','2026-01-02 03:04:08',
  9999999999.99, 0, 127, 'small', 'b', '9999-12-31', '-01:02:03', '-00:00:00.500', '100:00:00.000001', 2155, b'1', b'1111111111', 0.1, 123456789.123456789);
