-- What all jobs begin with: settings, Kafka, the decoded topics as tables, and the rows of them that a live job goes by.
-- ${BROKERS} (host:port, with commas) and ${PREFIX} (of the topics, usually wb1) are put in before: see README.md.

SET 'execution.runtime-mode' = 'streaming';
SET 'table.local-time-zone' = 'UTC';
-- The sinks write a transaction for each checkpoint, so that this is also how long a result takes to be seen.
SET 'execution.checkpointing.interval' = '10 s';
SET 'execution.checkpointing.mode' = 'EXACTLY_ONCE';
-- What a job that was killed or cancelled goes on from.
SET 'execution.checkpointing.externalized-checkpoint-retention' = 'RETAIN_ON_CANCELLATION';
-- How long a row's identity and a vehicle's last sample are kept. A copy that comes after longer is taken for a new row,
-- and is then late and left out unless its time is of the last minutes.
SET 'table.exec.state.ttl' = '1 h';

-- Where Kafka is. A cluster that wants names and TLS: 'properties.security.protocol' = 'SASL_SSL',
-- 'properties.sasl.mechanism' and 'properties.sasl.jaas.config' belong here, and only here.
CREATE TABLE waybill_kafka (tenant STRING NOT NULL, device STRING NOT NULL) WITH (
  'connector' = 'kafka',
  'properties.bootstrap.servers' = '${BROKERS}'
);

-- Every sample, as docs/KAFKA.md has it. Two columns are made here:
--
--   usable  the row has a time, its uncertainty is at most a minute, and it is not of the future: not later than ten
--           minutes after the store received it. What is not usable is left out of live results.
--   taken   the time of a usable row, in milliseconds; 1970 for any other, which moves no watermark.
--
-- The watermark is two minutes behind the newest row of a Kafka partition, and behind the store's clock: a vehicle whose
-- clock is fast by less than ten minutes is early itself and makes nobody else late. A partition in which nothing came
-- for 30 s is not waited for.
CREATE TABLE samples (
  epoch STRING,
  lane STRING,
  seq BIGINT,
  `index` BIGINT,
  name STRING,
  unit STRING,
  `value` DOUBLE,
  `time` TIMESTAMP_LTZ(6),
  uncertainty_ns BIGINT,
  received TIMESTAMP_LTZ(6),
  usable AS `time` IS NOT NULL AND `time` <= received + INTERVAL '10' MINUTE AND uncertainty_ns <= 60000000000,
  taken AS CASE WHEN `time` <= received + INTERVAL '10' MINUTE AND uncertainty_ns <= 60000000000
    THEN CAST(`time` AS TIMESTAMP_LTZ(3)) ELSE TO_TIMESTAMP_LTZ(0, 3) END,
  came AS PROCTIME(),
  WATERMARK FOR taken AS
    CASE WHEN taken <= CAST(received AS TIMESTAMP_LTZ(3)) THEN taken ELSE CAST(received AS TIMESTAMP_LTZ(3)) END - INTERVAL '2' MINUTE
) WITH (
  'topic' = '${PREFIX}.samples',
  'scan.startup.mode' = 'earliest-offset',
  'scan.watermark.idle-timeout' = '30 s',
  'properties.isolation.level' = 'read_committed',
  'format' = 'json',
  'json.timestamp-format.standard' = 'ISO-8601'
) LIKE waybill_kafka;

-- Positions, with the same two columns and watermark. Suspect ones are not usable.
CREATE TABLE positions (
  epoch STRING,
  lane STRING,
  seq BIGINT,
  `index` BIGINT,
  source STRING,
  latitude DOUBLE,
  longitude DOUBLE,
  suspect BOOLEAN,
  `time` TIMESTAMP_LTZ(6),
  uncertainty_ns BIGINT,
  received TIMESTAMP_LTZ(6),
  usable AS `time` IS NOT NULL AND `time` <= received + INTERVAL '10' MINUTE AND uncertainty_ns <= 60000000000 AND suspect IS NOT TRUE,
  taken AS CASE WHEN `time` <= received + INTERVAL '10' MINUTE AND uncertainty_ns <= 60000000000
    THEN CAST(`time` AS TIMESTAMP_LTZ(3)) ELSE TO_TIMESTAMP_LTZ(0, 3) END,
  came AS PROCTIME(),
  WATERMARK FOR taken AS
    CASE WHEN taken <= CAST(received AS TIMESTAMP_LTZ(3)) THEN taken ELSE CAST(received AS TIMESTAMP_LTZ(3)) END - INTERVAL '2' MINUTE
) WITH (
  'topic' = '${PREFIX}.positions',
  'scan.startup.mode' = 'earliest-offset',
  'scan.watermark.idle-timeout' = '30 s',
  'properties.isolation.level' = 'read_committed',
  'format' = 'json',
  'json.timestamp-format.standard' = 'ISO-8601'
) LIKE waybill_kafka;

-- Usable samples with a number, each identity once: the first that came with a usable time. A row that comes again with
-- a better time is for the history, which the store has.
CREATE VIEW samples_once AS
SELECT tenant, device, name, unit, seq, `index`, `value`, `time`, taken
FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY tenant, device, epoch, lane, seq, `index` ORDER BY came ASC) AS copy
  FROM samples
  WHERE usable AND `value` IS NOT NULL
)
WHERE copy = 1;

-- Speed in m/s and ignition, by the names of docs/API.md. preference: the lower, the better a signal is as a vehicle's speed.
CREATE VIEW motion AS
SELECT tenant, device, name, taken, preference, ignition,
  CASE WHEN preference IS NOT NULL THEN `value` * CASE
    WHEN LOWER(unit) IN ('km/h', 'kph', 'kmh', 'km/hr') THEN 1 / CAST(3.6 AS DOUBLE)
    WHEN LOWER(unit) = 'm/s' THEN CAST(1 AS DOUBLE)
    WHEN LOWER(unit) IN ('mph', 'mi/h') THEN CAST(0.44704 AS DOUBLE)
    WHEN LOWER(unit) IN ('kn', 'knots') THEN CAST(1852 AS DOUBLE) / 3600
  END END AS speed
FROM (
  SELECT *,
    CASE
      WHEN name LIKE '%Vehicle.Speed' THEN 1
      WHEN name LIKE '%.VehicleSpeed' THEN 2
      WHEN name LIKE '%.vehicle!_speed' ESCAPE '!' THEN 3
      WHEN name LIKE '%.fix.speed' THEN 4
    END AS preference,
    CASE
      WHEN name LIKE '%Vehicle.IsIgnitionOn' OR name LIKE '%.IgnitionOn' OR name LIKE '%.Ignition' OR name LIKE '%.ignition' THEN `value`
    END AS ignition
  FROM samples_once
)
WHERE preference IS NOT NULL OR ignition IS NOT NULL;
