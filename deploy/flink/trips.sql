-- Drives, to ${PREFIX}.trips: where the ignition is on or, of a vehicle that never told its ignition, where it is faster
-- than 1 m/s. Stops of less than 5 minutes belong to a trip. One is written once, when the watermark is 5 minutes past its end.

SET 'pipeline.name' = 'waybill-trips';

CREATE TABLE trips (
  `start` TIMESTAMP_LTZ(3),
  `end` TIMESTAMP_LTZ(3),
  `by` STRING,
  distance_m DOUBLE,
  top_speed_mps DOUBLE,
  PRIMARY KEY (tenant, device, `start`) NOT ENFORCED
) WITH (
  'connector' = 'upsert-kafka',
  'topic' = '${PREFIX}.trips',
  'key.format' = 'json',
  'key.json.timestamp-format.standard' = 'ISO-8601',
  'value.format' = 'json',
  'value.json.timestamp-format.standard' = 'ISO-8601',
  'sink.delivery-guarantee' = 'exactly-once',
  'sink.transactional-id-prefix' = '${PREFIX}-trips',
  'properties.transaction.timeout.ms' = '900000'
) LIKE waybill_kafka (OVERWRITING OPTIONS);

-- Each speed with the one before it of the same signal.
CREATE VIEW steps AS
SELECT *, LAG(speed) OVER (PARTITION BY tenant, device, name ORDER BY taken) AS speed_before,
  LAG(taken) OVER (PARTITION BY tenant, device, name ORDER BY taken) AS taken_before
FROM motion;

-- The ignition is often sent only when it changes: its last state holds.
CREATE VIEW steps_under_ignition AS
SELECT *, LAST_VALUE(ignition) OVER (PARTITION BY tenant, device ORDER BY taken RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS ignition_state
FROM steps;

-- metres: from the speed before to this one, where they are at most 5 minutes apart.
CREATE VIEW driving AS
SELECT tenant, device, taken, preference, speed, ignition_state,
  CASE WHEN TIMESTAMPDIFF(MILLISECOND, taken_before, taken) < 300000
    THEN (speed + speed_before) / 2 * TIMESTAMPDIFF(MILLISECOND, taken_before, taken) / 1000 END AS metres
FROM steps_under_ignition
WHERE CASE WHEN ignition_state IS NULL THEN speed > 1 ELSE ignition_state > 0 END;

-- The distance is that of the speed that is preferred, of those which the trip has.
INSERT INTO trips
SELECT tenant, device, CAST(window_start AS TIMESTAMP_LTZ(3)), MAX(taken),
  CASE WHEN MAX(ignition_state) IS NULL THEN 'speed' ELSE 'ignition' END,
  COALESCE(SUM(metres) FILTER (WHERE preference = 1), SUM(metres) FILTER (WHERE preference = 2),
    SUM(metres) FILTER (WHERE preference = 3), SUM(metres) FILTER (WHERE preference = 4)),
  COALESCE(MAX(speed) FILTER (WHERE preference = 1), MAX(speed) FILTER (WHERE preference = 2),
    MAX(speed) FILTER (WHERE preference = 3), MAX(speed) FILTER (WHERE preference = 4))
FROM SESSION(TABLE driving PARTITION BY (tenant, device), DESCRIPTOR(taken), INTERVAL '5' MINUTE)
GROUP BY window_start, window_end, tenant, device;
