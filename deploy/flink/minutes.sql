-- Each minute of each signal of each vehicle: count, least, greatest, mean and last value, to ${PREFIX}.minutes.
-- A minute is written once, when the watermark has passed its end: two minutes later, if the rows flow.

SET 'pipeline.name' = 'waybill-minutes';

CREATE TABLE minutes (
  name STRING,
  unit STRING,
  `minute` TIMESTAMP_LTZ(3),
  `count` BIGINT NOT NULL,
  `min` DOUBLE,
  `max` DOUBLE,
  `avg` DOUBLE,
  `last` DOUBLE,
  PRIMARY KEY (tenant, device, name, `minute`) NOT ENFORCED
) WITH (
  'connector' = 'upsert-kafka',
  'topic' = '${PREFIX}.minutes',
  'key.format' = 'json',
  'key.json.timestamp-format.standard' = 'ISO-8601',
  'value.format' = 'json',
  'value.json.timestamp-format.standard' = 'ISO-8601',
  'sink.delivery-guarantee' = 'exactly-once',
  'sink.transactional-id-prefix' = '${PREFIX}-minutes',
  'properties.transaction.timeout.ms' = '900000'
) LIKE waybill_kafka (OVERWRITING OPTIONS);

-- The last value is the one of the greatest time; of one time, the one that was recorded last. A text that sorts that way
-- carries the value along. One name has one unit within a minute, else the key would be two rows': the greatest is told.
INSERT INTO minutes
SELECT tenant, device, name, MAX(unit), CAST(window_start AS TIMESTAMP_LTZ(3)),
  COUNT(*), MIN(`value`), MAX(`value`), AVG(`value`),
  CAST(SUBSTRING(MAX(CAST(`time` AS STRING) || LPAD(CAST(seq AS STRING), 19, '0') || LPAD(CAST(`index` AS STRING), 10, '0')
    || CAST(`value` AS STRING)) FROM 56) AS DOUBLE)
FROM TUMBLE(TABLE samples_once, DESCRIPTOR(taken), INTERVAL '1' MINUTE)
GROUP BY window_start, window_end, tenant, device, name;
