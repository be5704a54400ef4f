-- How a vehicle is driven, to ${PREFIX}.scores: distance, harsh braking, harsh acceleration and times over the speed limit of
-- each day (UTC). A day's row is written again after each hour, under the same key, until the day is over.

SET 'pipeline.name' = 'waybill-scores';

CREATE TABLE scores (
  `day` STRING,
  as_of TIMESTAMP_LTZ(3),
  distance_m DOUBLE,
  harsh_braking BIGINT,
  harsh_acceleration BIGINT,
  over_speed BIGINT,
  score DOUBLE,
  PRIMARY KEY (tenant, device, `day`) NOT ENFORCED
) WITH (
  'connector' = 'upsert-kafka',
  'topic' = '${PREFIX}.scores',
  'key.format' = 'json',
  'value.format' = 'json',
  'value.json.timestamp-format.standard' = 'ISO-8601',
  'sink.delivery-guarantee' = 'exactly-once',
  'sink.transactional-id-prefix' = '${PREFIX}-scores',
  'properties.transaction.timeout.ms' = '900000'
) LIKE waybill_kafka (OVERWRITING OPTIONS);

-- The mean speed of each second, so that signals of 1 and of 100 Hz are judged alike.
CREATE VIEW seconds AS
SELECT tenant, device, name, preference, AVG(speed) AS speed, window_start AS began, window_time AS taken
FROM TUMBLE(TABLE motion, DESCRIPTOR(taken), INTERVAL '1' SECOND)
WHERE speed IS NOT NULL
GROUP BY window_start, window_end, window_time, tenant, device, name, preference;

CREATE VIEW changes AS
SELECT *, LAG(speed) OVER (PARTITION BY tenant, device, name ORDER BY taken) AS speed_before,
  TIMESTAMPDIFF(SECOND, LAG(began) OVER (PARTITION BY tenant, device, name ORDER BY taken), began) AS apart
FROM seconds;

-- m/s², where the seconds are at most 3 apart.
CREATE VIEW accelerations AS
SELECT *, CASE WHEN apart <= 3 THEN (speed - speed_before) / apart END AS acceleration FROM changes;

CREATE VIEW accelerations_after AS
SELECT *, LAG(acceleration) OVER (PARTITION BY tenant, device, name ORDER BY taken) AS acceleration_before FROM accelerations;

-- The limits: 3.5 m/s² for both, 130 km/h. What lasts is counted once, when it begins.
CREATE VIEW judged AS
SELECT tenant, device, name, preference, taken,
  CASE WHEN apart <= 60 THEN (speed + speed_before) / 2 * apart END AS metres,
  CASE WHEN acceleration <= -3.5 AND COALESCE(acceleration_before, 0) > -3.5 THEN 1 ELSE 0 END AS braking,
  CASE WHEN acceleration >= 3.5 AND COALESCE(acceleration_before, 0) < 3.5 THEN 1 ELSE 0 END AS accelerating,
  CASE WHEN speed > 130 / 3.6 AND COALESCE(speed_before, 0) <= 130 / 3.6 THEN 1 ELSE 0 END AS speeding
FROM accelerations_after;

CREATE VIEW days AS
SELECT tenant, device, name, preference, window_start, window_end,
  SUM(metres) AS metres, SUM(CAST(braking AS BIGINT)) AS braking, SUM(CAST(accelerating AS BIGINT)) AS accelerating,
  SUM(CAST(speeding AS BIGINT)) AS speeding
FROM CUMULATE(TABLE judged, DESCRIPTOR(taken), INTERVAL '1' HOUR, INTERVAL '1' DAY)
GROUP BY window_start, window_end, tenant, device, name, preference;

-- Of several speeds, the preferred. The score is 100, less 2 for each braking and acceleration and 5 for each time over
-- the limit on 100 km, not below 0; there is none below 1 km.
INSERT INTO scores
SELECT tenant, device, DATE_FORMAT(window_start, 'yyyy-MM-dd'), CAST(window_end AS TIMESTAMP_LTZ(3)), metres, braking, accelerating, speeding,
  CASE WHEN metres >= 1000 THEN GREATEST(CAST(0 AS DOUBLE), 100 - (2 * (braking + accelerating) + 5 * speeding) * CAST(100000 AS DOUBLE) / metres) END
FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end, tenant, device ORDER BY preference, name) AS place FROM days
)
WHERE place = 1;
