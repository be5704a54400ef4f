-- Vehicles that enter and leave circles, to ${PREFIX}.geofence.

SET 'pipeline.name' = 'waybill-geofence';
-- A repeated position changes nothing here, so that no identities are kept; what is kept is on which side of each fence a
-- vehicle was last, for as long as it may be silent. After longer, being inside counts as entering.
SET 'table.exec.state.ttl' = '30 d';

CREATE TABLE geofence (
  source STRING,
  fence STRING,
  event STRING,
  `time` TIMESTAMP_LTZ(3),
  latitude DOUBLE,
  longitude DOUBLE,
  distance_m DOUBLE,
  PRIMARY KEY (tenant, device, source, fence, `time`) NOT ENFORCED
) WITH (
  'connector' = 'upsert-kafka',
  'topic' = '${PREFIX}.geofence',
  'key.format' = 'json',
  'key.json.timestamp-format.standard' = 'ISO-8601',
  'value.format' = 'json',
  'value.json.timestamp-format.standard' = 'ISO-8601',
  'sink.delivery-guarantee' = 'exactly-once',
  'sink.transactional-id-prefix' = '${PREFIX}-geofence',
  'properties.transaction.timeout.ms' = '900000'
) LIKE waybill_kafka (OVERWRITING OPTIONS);

-- The fences: tenant, name, centre (degrees), radius (m). After a change start the job from its last savepoint. (A column
-- of positions, since in a join with another table positions would lose their event time.)
CREATE VIEW positions_and_fences AS
SELECT tenant, device, source, taken, latitude, longitude, ARRAY[
    ROW('acme', 'depot', CAST(48.1374 AS DOUBLE), CAST(11.5755 AS DOUBLE), CAST(500 AS DOUBLE)),
    ROW('acme', 'harbour', CAST(53.5413 AS DOUBLE), CAST(9.9841 AS DOUBLE), CAST(2000 AS DOUBLE))
  ] AS fences
FROM positions
WHERE usable AND latitude IS NOT NULL AND longitude IS NOT NULL;

CREATE VIEW distances AS
SELECT p.tenant, p.device, p.source, p.taken, p.latitude, p.longitude, f.fence, f.radius,
  -- haversine, on a sphere of the earth's mean radius: within 0.6 % of the ellipsoid
  2 * 6371008.8 * ASIN(SQRT(LEAST(CAST(1 AS DOUBLE),
    POWER(SIN(RADIANS(p.latitude - f.latitude) / 2), 2)
    + COS(RADIANS(p.latitude)) * COS(RADIANS(f.latitude)) * POWER(SIN(RADIANS(p.longitude - f.longitude) / 2), 2)))) AS distance
FROM positions_and_fences AS p
CROSS JOIN UNNEST(p.fences) AS f (tenant, fence, latitude, longitude, radius)
WHERE p.tenant = f.tenant;

-- A receiver's noise at the edge is no driving in and out: between the radius and 50 m more a vehicle is where it was.
CREATE VIEW sides AS
SELECT *, distance <= radius AS inside
FROM distances
WHERE distance <= radius OR distance > radius + 50;

CREATE VIEW crossings AS
SELECT *, LAG(inside) OVER (PARTITION BY tenant, device, source, fence ORDER BY taken) AS was_inside
FROM sides;

-- A vehicle that is inside when it is first heard of enters; one that is outside has not left.
INSERT INTO geofence
SELECT tenant, device, source, fence, CASE WHEN inside THEN 'enter' ELSE 'leave' END, taken, latitude, longitude, distance
FROM crossings
WHERE inside <> COALESCE(was_inside, FALSE);
