package postgres

// schemaMeans has no value and no time of one vehicle make a question over all fail: avg() squares what it adds up, and says "overflow" of
// two values of 1e200; and the hours at either end of what nanoseconds in 64 bits can say end beyond it.
const schemaMeans = `
CREATE OR REPLACE VIEW dated AS
SELECT d.tenant, d.device, g.name, g.unit, h.hour, time_of(s.wall_ns) AS time, s.value,
       coalesce(nullif(s.label, ''), CASE WHEN s.kind = 1 OR s.kind = 2 AND s.bits >= 0 THEN g.labels ->> s.bits::text END) AS label,
       CASE WHEN s.kind = 4 THEN readable(s.raw) END AS text, s.wall_ns, s.uncertainty, lane_name(b.lane) AS lane, b.seq, s.idx & 4294967295 AS idx
FROM devices d JOIN batch_hours h ON h.device = d.id JOIN batches b ON b.device = h.device AND b.id = h.batch AND b.day = h.day
  JOIN samples s ON s.batch = h.batch AND s.day = h.day AND s.wall_ns >= greatest(date_part('epoch', h.hour)::bigint, -9223372036) * 1000000000
    AND s.wall_ns <= least(date_part('epoch', h.hour)::bigint + 3599, 9223372035) * 1000000000 + 999999999
  JOIN signals g ON g.id = s.signal;

CREATE OR REPLACE VIEW minutes AS
SELECT d.tenant, d.device, g.name, g.unit, h.hour, date_trunc('minute', time_of(s.wall_ns), 'UTC') AS minute, count(*) AS samples,
       min(s.value) AS min, max(s.value) AS max, sum(s.value) / count(*) AS mean,
       (array_agg(s.value ORDER BY s.wall_ns, s.batch, s.idx))[1] AS first, (array_agg(s.value ORDER BY s.wall_ns DESC, s.batch DESC, s.idx DESC))[1] AS last
FROM devices d JOIN batch_hours h ON h.device = d.id
  JOIN samples s ON s.batch = h.batch AND s.day = h.day AND s.wall_ns >= greatest(date_part('epoch', h.hour)::bigint, -9223372036) * 1000000000
    AND s.wall_ns <= least(date_part('epoch', h.hour)::bigint + 3599, 9223372035) * 1000000000 + 999999999
  JOIN signals g ON g.id = s.signal
WHERE s.value BETWEEN -1e300 AND 1e300
GROUP BY d.tenant, d.device, g.name, g.unit, h.hour, date_trunc('minute', time_of(s.wall_ns), 'UTC');

CREATE OR REPLACE VIEW hours AS
SELECT d.tenant, d.device, g.name, g.unit, h.hour, count(*) AS samples, min(s.value) AS min, max(s.value) AS max, sum(s.value) / count(*) AS mean,
       (array_agg(s.value ORDER BY s.wall_ns, s.batch, s.idx))[1] AS first, (array_agg(s.value ORDER BY s.wall_ns DESC, s.batch DESC, s.idx DESC))[1] AS last
FROM devices d JOIN batch_hours h ON h.device = d.id
  JOIN samples s ON s.batch = h.batch AND s.day = h.day AND s.wall_ns >= greatest(date_part('epoch', h.hour)::bigint, -9223372036) * 1000000000
    AND s.wall_ns <= least(date_part('epoch', h.hour)::bigint + 3599, 9223372035) * 1000000000 + 999999999
  JOIN signals g ON g.id = s.signal
WHERE s.value BETWEEN -1e300 AND 1e300
GROUP BY d.tenant, d.device, g.name, g.unit, h.hour;
`
