package store

import "github.com/waybill-telematics/waybill/fleet/api"

// views is what version 5 has more than version 4: what people ask beside readings (docs/QUESTIONS.md), by the names and rules
// of package api. Gaps and trips are not among them: the numbers that are accounted for are kept in memory, and the
// page finds trips when it is asked.
const views = `
CREATE VIEW receivers AS -- signals that are one fix; a signal has a row in each catalogue
SELECT a.device, substr(a.name, 1, length(a.name) - length('` + api.FixLatitude + `')) AS source, a.id AS latitude, o.id AS longitude,
       substr(a.name, 1, length(a.name) - length('` + api.FixLatitude + `')) || '` + api.FixSuspect + `' AS suspect
FROM signals a JOIN signals o ON o.device = a.device AND o.name = substr(a.name, 1, length(a.name) - length('` + api.FixLatitude + `')) || '` + api.FixLongitude + `'
WHERE a.name GLOB '*` + api.FixLatitude + `'
UNION ALL SELECT a.device, '` + api.VSSLocation + `', a.id, o.id, '' FROM signals a JOIN signals o ON o.device = a.device AND o.name = '` + api.VSSLocation + api.VSSLongitude + `'
WHERE a.name = '` + api.VSSLocation + api.VSSLatitude + `';

-- positions: latitude and longitude of one receiver and one time. Ask by device and wall_ns.
CREATE VIEW positions AS
SELECT d.tenant, d.device, r.source, strftime('%Y-%m-%dT%H:%M:%fZ', x.wall_ns / 1e9, 'unixepoch') AS time, x.value AS latitude, y.value AS longitude,
       EXISTS (SELECT 1 FROM signals u JOIN samples q ON q.signal = u.id AND q.wall_ns = x.wall_ns AND q.boot_ns = x.boot_ns
         WHERE u.device = r.device AND u.name = r.suspect AND q.value <> 0) AS suspect,
       x.wall_ns, x.uncertainty, x.time_source, x.boot_ns
FROM devices d CROSS JOIN receivers r ON r.device = d.id CROSS JOIN samples x ON x.signal = r.latitude
  CROSS JOIN samples y ON y.signal = r.longitude AND y.wall_ns = x.wall_ns AND y.boot_ns = x.boot_ns
WHERE x.value BETWEEN -90 AND 90 AND y.value BETWEEN -180 AND 180;

-- latest_positions: dated, not later than now, of a time not uncertain by more than 10 minutes, and not suspect.
CREATE VIEW latest_positions AS
SELECT d.tenant, d.device, p.source, p.time, p.latitude, p.longitude, p.wall_ns, p.uncertainty, p.time_source, d.last_seen
FROM (SELECT l.*, row_number() OVER (PARTITION BY device ORDER BY wall_ns DESC, source) AS n FROM (
    SELECT r.device, r.source, (SELECT x.wall_ns FROM samples x CROSS JOIN samples y ON y.signal = r.longitude AND y.wall_ns = x.wall_ns AND y.boot_ns = x.boot_ns
      WHERE x.signal = r.latitude AND x.wall_ns <= strftime('%s', 'now') * 1000000000 AND x.uncertainty <= 600000000000
        AND x.value BETWEEN -90 AND 90 AND y.value BETWEEN -180 AND 180
        AND NOT EXISTS (SELECT 1 FROM signals u JOIN samples q ON q.signal = u.id AND q.wall_ns = x.wall_ns AND q.boot_ns = x.boot_ns
          WHERE u.device = r.device AND u.name = r.suspect AND q.value <> 0)
      ORDER BY x.wall_ns DESC LIMIT 1) AS wall_ns FROM receivers r) l WHERE wall_ns IS NOT NULL) l
CROSS JOIN devices d ON d.id = l.device
CROSS JOIN positions p ON p.tenant = d.tenant AND p.device = d.device AND p.source = l.source AND p.wall_ns = l.wall_ns AND NOT p.suspect AND p.uncertainty <= 600000000000
WHERE l.n = 1 GROUP BY d.id;

CREATE VIEW events AS
SELECT d.tenant, d.device, g.name, g.unit, strftime('%Y-%m-%dT%H:%M:%fZ', s.wall_ns / 1e9, 'unixepoch') AS time, s.value, s.raw,
       coalesce(s.label, CASE WHEN g.labels <> '' AND s.kind BETWEEN 1 AND 2 THEN json_extract(g.labels, '$."' || s.raw || '"') END) AS label,
       s.wall_ns, s.uncertainty, s.time_source, printf('%016x', b.epoch) AS epoch, b.seq, s.idx, b.received
FROM devices d CROSS JOIN batches b ON b.device = d.id AND b.lane = 2 CROSS JOIN samples s ON s.batch = b.id JOIN signals g ON g.id = s.signal;

-- minutes and hours: what a signal was. Ask by device and name; minute and hour are Unix seconds.
CREATE VIEW minutes AS
SELECT d.tenant, d.device, g.name, g.unit, s.wall_ns / 60000000000 * 60 AS minute, count(*) AS samples, min(s.value) AS min, max(s.value) AS max, avg(s.value) AS mean
FROM devices d CROSS JOIN signals g ON g.device = d.id CROSS JOIN samples s ON s.signal = g.id
WHERE s.wall_ns IS NOT NULL AND s.value BETWEEN -1e300 AND 1e300 GROUP BY d.tenant, d.device, g.name, g.unit, s.wall_ns / 60000000000;

CREATE VIEW hours AS
SELECT d.tenant, d.device, g.name, g.unit, s.wall_ns / 3600000000000 * 3600 AS hour, count(*) AS samples, min(s.value) AS min, max(s.value) AS max, avg(s.value) AS mean
FROM devices d CROSS JOIN signals g ON g.device = d.id CROSS JOIN samples s ON s.signal = g.id
WHERE s.wall_ns IS NOT NULL AND s.value BETWEEN -1e300 AND 1e300 GROUP BY d.tenant, d.device, g.name, g.unit, s.wall_ns / 3600000000000;

-- ledger: the loss ledgers of the vehicles, in words.
CREATE VIEW ledger AS
SELECT d.tenant, d.device, CASE l.reason WHEN 1 THEN 'kernel_drop' WHEN 2 THEN 'overload' WHEN 3 THEN 'undecodable' WHEN 4 THEN 'unclean_stop' WHEN 5 THEN 'queue_full'
         WHEN 6 THEN 'disk_error' WHEN 7 THEN 'evicted' WHEN 8 THEN 'thinned' WHEN 9 THEN 'quarantined' WHEN 10 THEN 'rejected' WHEN 11 THEN 'epoch' WHEN 12 THEN 'bus_down'
         WHEN 13 THEN 'not_kept' ELSE CAST(l.reason AS TEXT) END AS reason, l.source, l.count, l.count_is_bound, l.count_unknown, l.unit,
       CASE WHEN l.seqs <> '[]' THEN printf('%016x', l.epoch) END AS epoch, l.lane, l.seqs, l.detail, b.received
FROM losses l JOIN devices d ON d.id = l.device LEFT JOIN batches b ON b.id = l.batch;
`
