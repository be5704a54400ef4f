package postgres

// schemaTables adds what people ask beside readings (docs/QUESTIONS.md): views that follow the samples by themselves, and for the
// three that would take too long as views a table each:
//
//	batch_hours   which hours of its vehicle's time a batch has samples of: finds the samples of a signal and an hour. It may name more
//	        than there is (samples that were dated again), never less
//	latest  the position that is believed to be the newest, a row a vehicle
//	drives  trips, cut at the hours; the worker makes them of the samples, hour by hour, as `dirty` says
//
// A sample of a signal that has a role (position, speed, ignition) is found by signal and time (samples.by_time); roles says
// which signals these are, and is filled by the store when it learns a signal. The rows of older samples are brought in here.
const schemaTables = `
CREATE TABLE roles ( -- which signals are positions, speed, ignition: docs/API.md, "Which signals"
  signal bigint PRIMARY KEY REFERENCES signals,
  device bigint NOT NULL REFERENCES devices,
  role text NOT NULL,             -- latitude, longitude, suspect, speed, ignition
  source text NOT NULL,           -- the receiver, of a position
  rank integer NOT NULL,          -- the least decides, then the name
  factor double precision NOT NULL -- to m/s; 0: the unit is not known, or it is no speed
);
CREATE INDEX roles_by_device ON roles (device, role);

ALTER TABLE samples ADD COLUMN by_time boolean NOT NULL DEFAULT false; -- its signal has a role
CREATE INDEX samples_by_role ON samples (signal, wall_ns) WHERE by_time;
CREATE INDEX batches_events ON batches (device, day) WHERE lane = 2;

CREATE TABLE batch_hours (
  device bigint NOT NULL REFERENCES devices,
  hour timestamptz NOT NULL,
  batch bigint NOT NULL,
  day date NOT NULL, -- of its samples
  PRIMARY KEY (device, hour, batch)
);
INSERT INTO batch_hours SELECT DISTINCT b.device, date_trunc('hour', 'epoch'::timestamptz + floor(s.wall_ns / 1000.0)::bigint * interval '1 microsecond', 'UTC'), s.batch, s.day
  FROM samples s JOIN batches b ON b.id = s.batch AND b.day = s.day WHERE s.wall_ns IS NOT NULL;

CREATE TABLE latest (
  device bigint PRIMARY KEY REFERENCES devices,
  wall_ns bigint, -- NULL: none is believed
  uncertainty bigint,
  time_source smallint,
  latitude double precision,
  longitude double precision,
  source text,
  ahead_ns bigint -- Unix ns from when the row may be out of date: a position came that was dated later than the clock then was
) WITH (fillfactor = 70);
CREATE INDEX latest_ahead ON latest (ahead_ns) WHERE ahead_ns IS NOT NULL;

CREATE TABLE dirty ( -- hours of which the drives are to be found again
  device bigint NOT NULL REFERENCES devices,
  hour timestamptz NOT NULL,
  since timestamptz NOT NULL,
  spread boolean NOT NULL DEFAULT true, -- its samples changed: what follows may be under another ignition
  PRIMARY KEY (device, hour)
);
CREATE INDEX dirty_by_since ON dirty (since);
INSERT INTO dirty SELECT DISTINCT device, hour, 'epoch'::timestamptz FROM batch_hours;

CREATE TABLE drives (
  device bigint NOT NULL REFERENCES devices,
  start_ns bigint NOT NULL, -- Unix ns: its first sample
  end_ns bigint NOT NULL,   -- its last one
  hour timestamptz NOT NULL,
  by text NOT NULL,         -- ignition, speed
  distance double precision, -- m; NULL: no speed is known
  top double precision,      -- m/s
  first_ns bigint,           -- the middle of its first step with a speed, and the mean speed there, m/s
  first_speed double precision,
  last_ns bigint,            -- likewise the last
  last_speed double precision,
  PRIMARY KEY (device, start_ns)
);
CREATE INDEX drives_by_hour ON drives (device, hour);

CREATE TABLE driven_by ( -- what told the drives of a vehicle: another answer makes all of them anew
  device bigint PRIMARY KEY REFERENCES devices,
  by text NOT NULL
);

CREATE TABLE queues ( -- what a vehicle last said to have in its queue
  device bigint PRIMARY KEY REFERENCES devices,
  epoch bigint NOT NULL,
  lanes integer[] NOT NULL,
  batches bigint[] NOT NULL,
  bytes bigint[] NOT NULL,
  received timestamptz NOT NULL
) WITH (fillfactor = 70);

-- A time as Unix ns and back: columns wall_ns have indexes. Stable, as what they call: else they are not put in place, and take long.
CREATE FUNCTION ns(t timestamptz) RETURNS bigint LANGUAGE sql STABLE STRICT PARALLEL SAFE AS
  $$ SELECT (extract(epoch FROM t) * 1000000)::bigint * 1000 $$;
CREATE FUNCTION time_of(ns bigint) RETURNS timestamptz LANGUAGE sql STABLE STRICT PARALLEL SAFE AS
  $$ SELECT timestamptz '1970-01-01 00:00:00+00' + floor(ns / 1000.0)::bigint * interval '1 microsecond' $$;
CREATE FUNCTION lane_name(lane integer) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS
  $$ SELECT coalesce((ARRAY['control', 'event', 'telemetry', 'raw'])[lane], lane::text) $$;
CREATE FUNCTION loss_reason(reason integer) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS
  $$ SELECT coalesce((ARRAY['kernel_drop', 'overload', 'undecodable', 'unclean_stop', 'queue_full', 'disk_error', 'evicted', 'thinned', 'quarantined', 'rejected', 'epoch',
       'bus_down', 'not_kept'])[reason], reason::text) $$;

CREATE VIEW dated AS
SELECT d.tenant, d.device, g.name, g.unit, h.hour, time_of(s.wall_ns) AS time, s.value,
       coalesce(nullif(s.label, ''), CASE WHEN s.kind = 1 OR s.kind = 2 AND s.bits >= 0 THEN g.labels ->> s.bits::text END) AS label,
       CASE WHEN s.kind = 4 THEN readable(s.raw) END AS text, s.wall_ns, s.uncertainty, lane_name(b.lane) AS lane, b.seq, s.idx & 4294967295 AS idx
FROM devices d JOIN batch_hours h ON h.device = d.id JOIN batches b ON b.device = h.device AND b.id = h.batch AND b.day = h.day
  JOIN samples s ON s.batch = h.batch AND s.day = h.day AND s.wall_ns >= date_part('epoch', h.hour)::bigint * 1000000000 AND s.wall_ns < (date_part('epoch', h.hour)::bigint + 3600) * 1000000000
  JOIN signals g ON g.id = s.signal;
COMMENT ON VIEW dated IS 'Samples whose time is known: ask by device, hour and name.';

CREATE VIEW minutes AS
SELECT d.tenant, d.device, g.name, g.unit, h.hour, date_trunc('minute', time_of(s.wall_ns), 'UTC') AS minute, count(*) AS samples,
       min(s.value) AS min, max(s.value) AS max, avg(s.value) AS mean,
       (array_agg(s.value ORDER BY s.wall_ns, s.batch, s.idx))[1] AS first, (array_agg(s.value ORDER BY s.wall_ns DESC, s.batch DESC, s.idx DESC))[1] AS last
FROM devices d JOIN batch_hours h ON h.device = d.id
  JOIN samples s ON s.batch = h.batch AND s.day = h.day AND s.wall_ns >= date_part('epoch', h.hour)::bigint * 1000000000 AND s.wall_ns < (date_part('epoch', h.hour)::bigint + 3600) * 1000000000
  JOIN signals g ON g.id = s.signal
WHERE s.value BETWEEN -1e300 AND 1e300
GROUP BY d.tenant, d.device, g.name, g.unit, h.hour, date_trunc('minute', time_of(s.wall_ns), 'UTC');
COMMENT ON VIEW minutes IS 'What a signal was, by the minute: ask by device, hour and name. What is no finite number is left out.';

CREATE VIEW hours AS
SELECT d.tenant, d.device, g.name, g.unit, h.hour, count(*) AS samples, min(s.value) AS min, max(s.value) AS max, avg(s.value) AS mean,
       (array_agg(s.value ORDER BY s.wall_ns, s.batch, s.idx))[1] AS first, (array_agg(s.value ORDER BY s.wall_ns DESC, s.batch DESC, s.idx DESC))[1] AS last
FROM devices d JOIN batch_hours h ON h.device = d.id
  JOIN samples s ON s.batch = h.batch AND s.day = h.day AND s.wall_ns >= date_part('epoch', h.hour)::bigint * 1000000000 AND s.wall_ns < (date_part('epoch', h.hour)::bigint + 3600) * 1000000000
  JOIN signals g ON g.id = s.signal
WHERE s.value BETWEEN -1e300 AND 1e300
GROUP BY d.tenant, d.device, g.name, g.unit, h.hour;
COMMENT ON VIEW hours IS 'Likewise by the hour.';

CREATE VIEW positions AS
SELECT d.tenant, d.device, a.source, time_of(x.wall_ns) AS time, x.value AS latitude, y.value AS longitude, coalesce(z.value, 0) <> 0 AS suspect,
       x.wall_ns, x.uncertainty, x.time_source, x.boot_ns
FROM devices d JOIN roles a ON a.device = d.id AND a.role = 'latitude' JOIN samples x ON x.signal = a.signal AND x.by_time
  JOIN roles o ON o.device = a.device AND o.role = 'longitude' AND o.source = a.source
  JOIN samples y ON y.signal = o.signal AND y.by_time AND y.wall_ns = x.wall_ns AND y.boot_ns = x.boot_ns
  LEFT JOIN LATERAL (SELECT max(abs(q.value)) AS value FROM roles u JOIN samples q ON q.signal = u.signal AND q.by_time
    WHERE u.device = a.device AND u.role = 'suspect' AND u.source = a.source AND q.wall_ns = x.wall_ns AND q.boot_ns = x.boot_ns) z ON true
WHERE x.value BETWEEN -90 AND 90 AND y.value BETWEEN -180 AND 180;
COMMENT ON VIEW positions IS 'Where vehicles were: latitude and longitude of one receiver and one time. Ask by device and wall_ns.';

-- The latest position, by its definition: dated, not later than now, its time not uncertain by more than 10 minutes, not suspect.
CREATE FUNCTION latest_of(of bigint, now_ns bigint) RETURNS TABLE (wall_ns bigint, uncertainty bigint, time_source smallint, latitude double precision, longitude double precision, source text)
LANGUAGE sql STABLE AS $$
  SELECT p.* FROM (SELECT DISTINCT r.source AS receiver FROM roles r WHERE r.device = of AND r.role = 'latitude') k CROSS JOIN LATERAL (
    SELECT l.* FROM roles a CROSS JOIN LATERAL (
      SELECT x.wall_ns, x.uncertainty, x.time_source, x.value, y.value, a.source FROM samples x
        CROSS JOIN LATERAL (SELECT y.value FROM roles o JOIN samples y ON y.signal = o.signal AND y.by_time AND y.wall_ns = x.wall_ns AND y.boot_ns = x.boot_ns
          WHERE o.device = of AND o.role = 'longitude' AND o.source = a.source AND y.value BETWEEN -180 AND 180 LIMIT 1) y -- backwards, one by one
      WHERE x.signal = a.signal AND x.by_time AND x.wall_ns <= now_ns AND x.uncertainty <= 600000000000 AND x.value BETWEEN -90 AND 90
        AND (SELECT count(*) FROM roles u JOIN samples q ON q.signal = u.signal AND q.by_time WHERE u.device = of AND u.role = 'suspect' AND u.source = a.source
          AND q.wall_ns = x.wall_ns AND q.boot_ns = x.boot_ns AND q.value <> 0) = 0
      ORDER BY x.wall_ns DESC LIMIT 1) l
    WHERE a.device = of AND a.role = 'latitude' AND a.source = k.receiver) p
  ORDER BY p.wall_ns DESC, p.source COLLATE "C" LIMIT 1 $$;

CREATE FUNCTION refresh_latest(of bigint, now_ns bigint) RETURNS void LANGUAGE sql AS $$
  INSERT INTO latest AS l SELECT of, n.*, (SELECT min(x.wall_ns) FROM roles a JOIN samples x ON x.signal = a.signal AND x.by_time AND x.wall_ns > now_ns
      WHERE a.device = of AND a.role = 'latitude')
    FROM (SELECT 1) one LEFT JOIN latest_of(of, now_ns) n ON true
  ON CONFLICT (device) DO UPDATE SET wall_ns = excluded.wall_ns, uncertainty = excluded.uncertainty, time_source = excluded.time_source, latitude = excluded.latitude,
    longitude = excluded.longitude, source = excluded.source, ahead_ns = excluded.ahead_ns $$;

CREATE VIEW latest_positions AS
SELECT d.tenant, d.device, time_of(p.wall_ns) AS time, p.latitude, p.longitude, p.source, p.wall_ns, p.uncertainty, p.time_source, d.last_seen
FROM latest l JOIN devices d ON d.id = l.device CROSS JOIN LATERAL (
    SELECT l.wall_ns, l.uncertainty, l.time_source, l.latitude, l.longitude, l.source WHERE l.ahead_ns IS NULL OR l.ahead_ns > ns(now())
    UNION ALL SELECT n.* FROM latest_of(l.device, ns(now())) n WHERE l.ahead_ns <= ns(now())) p
WHERE p.wall_ns IS NOT NULL;
COMMENT ON VIEW latest_positions IS 'Where each vehicle is, as far as is known and believed.';

CREATE VIEW events AS
SELECT d.tenant, d.device, g.name, g.unit, time_of(s.wall_ns) AS time, s.value,
       coalesce(nullif(s.label, ''), CASE WHEN s.kind = 1 OR s.kind = 2 AND s.bits >= 0 THEN g.labels ->> s.bits::text END) AS label,
       CASE WHEN s.kind = 4 THEN readable(s.raw) END AS text, s.wall_ns, s.uncertainty, s.time_source,
       lpad(to_hex(b.epoch), 16, '0') AS epoch, b.seq, s.idx & 4294967295 AS idx, b.received, b.day
FROM batches b JOIN devices d ON d.id = b.device JOIN samples s ON s.batch = b.id AND s.day = b.day JOIN signals g ON g.id = s.signal WHERE b.lane = 2;
COMMENT ON VIEW events IS 'The event lane: ask by device, and by the day on which it came.';

CREATE VIEW trips AS
SELECT tenant, device, time_of(min(start_ns)) AS started, time_of(max(end_ns)) AS ended, min(by) AS by,
       sum(distance) + coalesce(sum((last_speed_before + first_speed) / 2 * ((first_ns - last_ns_before) / 1e9)), 0) AS distance_m, max(top) AS top_mps,
       min(start_ns) AS start_ns, max(end_ns) AS end_ns
FROM (SELECT *, lag(last_speed) OVER told AS last_speed_before, lag(last_ns) OVER told AS last_ns_before FROM (
    SELECT *, count(*) FILTER (WHERE apart) OVER (PARTITION BY tenant, device ORDER BY start_ns) AS n FROM (
      SELECT d.tenant, d.device, v.*, v.start_ns - lag(v.end_ns) OVER (PARTITION BY d.tenant, d.device ORDER BY v.start_ns) > 300000000000 AS apart
      FROM (SELECT device AS id, start_ns, end_ns, by, distance, top, first_ns, first_speed, last_ns, last_speed FROM drives) v JOIN devices d ON d.id = v.id) a) b
  WINDOW told AS (PARTITION BY tenant, device, n, first_ns IS NULL ORDER BY start_ns)) c
GROUP BY tenant, device, n;
COMMENT ON VIEW trips IS 'Drives, joined where they are no more than 5 minutes apart.';

CREATE VIEW gaps AS
SELECT d.tenant, d.device, lpad(to_hex(g.epoch), 16, '0') AS epoch, lane_name(g.lane) AS lane, (g.behind + 1)::bigint AS first, (g.ahead - 1)::bigint AS last,
       (g.ahead - 1 - g.behind)::bigint AS batches, q.queued,
       CASE WHEN q.queued > 0 THEN 'late' WHEN q.queued = 0 THEN 'missing' ELSE 'unknown' END AS verdict, d.last_seen
FROM (SELECT l.device, l.epoch, l.lane, coalesce(lag(r.last) OVER w, 0) AS behind, least(r.first, l.top + 1) AS ahead FROM
      (SELECT device, epoch, lane, greatest(last, announced)::numeric AS top FROM lanes WHERE missing > 0) l
      CROSS JOIN LATERAL (SELECT first::numeric, last::numeric FROM ranges r WHERE r.device = l.device AND r.epoch = l.epoch AND r.lane = l.lane
        UNION ALL SELECT 9223372036854775808, 9223372036854775808) r
    WINDOW w AS (PARTITION BY l.device, l.epoch, l.lane ORDER BY r.first)) g JOIN devices d ON d.id = g.device
  LEFT JOIN LATERAL (SELECT u.batches AS queued FROM queues k CROSS JOIN LATERAL unnest(k.lanes, k.batches) AS u (lane, batches)
    WHERE k.device = g.device AND k.epoch = g.epoch AND u.lane = g.lane LIMIT 1) q ON true
WHERE g.behind < g.ahead - 1;
COMMENT ON VIEW gaps IS 'Numbers of which the batches neither came nor stand in a ledger; late: the vehicle has some of that lane queued still.';

CREATE VIEW ledger AS
SELECT d.tenant, d.device, loss_reason(l.reason) AS reason, l.source, l.count, l.count_is_bound, l.count_unknown, l.unit,
       CASE WHEN jsonb_array_length(l.seqs) > 0 THEN lpad(to_hex(l.epoch), 16, '0') END AS epoch, CASE WHEN l.lane > 0 THEN lane_name(l.lane) END AS lane, l.seqs, l.detail, b.received
FROM losses l JOIN devices d ON d.id = l.device LEFT JOIN batches b ON b.device = l.device AND b.id = l.batch;
COMMENT ON VIEW ledger IS 'The loss ledgers of the vehicles, in words.';
`
