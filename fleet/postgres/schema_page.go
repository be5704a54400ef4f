package postgres

// schemaPage adds what a page is answered by (spans), what a device has of what is limited, and leases of slots.
//
// An index over samples by signal and time would be as large as half the samples, and each batch would write to as many places
// in it as it has signals. So spans says of each batch which signals it has in which hour: one row for some thousand samples,
// and the batch's own index finds the rest. It has no foreign keys, as samples has none.
const schemaPage = `
CREATE TABLE spans ( -- when a batch's samples are dated, and which signals they are of: one row a batch and hour (UTC)
  device bigint NOT NULL,
  batch bigint NOT NULL,
  day date NOT NULL,        -- batches.day
  lane integer NOT NULL,
  first_ns bigint,          -- Unix ns, of the samples in this hour; NULL: of those whose time is not known
  last_ns bigint,
  signals bigint[] NOT NULL -- rows of signals; a thinned copy may have fewer by now
);
COMMENT ON TABLE spans IS 'Which batches hold samples of which time and signals. After a partition of samples is dropped: DELETE FROM spans WHERE day < …';
INSERT INTO spans SELECT b.device, b.id, b.day, b.lane, min(s.wall_ns), max(s.wall_ns), array_agg(DISTINCT s.signal)
  FROM samples s JOIN batches b ON b.id = s.batch AND b.day = s.day GROUP BY b.device, b.id, b.day, b.lane, s.wall_ns / 3600000000000;
CREATE INDEX spans_by_time ON spans (device, last_ns);
CREATE INDEX spans_by_batch ON spans (batch);
CREATE INDEX spans_of_events ON spans (device, last_ns) WHERE lane = 2;

-- The newest position not after a time: from the newest span back, until no older one can hold a newer one. The parts of a fix
-- share a time, and may stand in two batches.
CREATE FUNCTION latest_position(vehicle bigint, until bigint, doubt bigint, latitudes bigint[], longitudes bigint[], suspects bigint[],
    OUT wall_ns bigint, OUT uncertainty bigint, OUT time_source smallint, OUT latitude double precision, OUT longitude double precision) LANGUAGE plpgsql STABLE AS $$
DECLARE
  span record;
  best record;
BEGIN
  until := least(until, 9000000000000000000); -- what is added below stays a bigint
  FOR span IN SELECT x.first_ns, x.last_ns FROM spans x WHERE x.device = vehicle AND x.last_ns IS NOT NULL AND x.last_ns < until + 7200000000000
      AND x.first_ns <= until AND x.signals && latitudes ORDER BY x.last_ns DESC LOOP
    EXIT WHEN wall_ns >= span.last_ns;
    WITH p AS MATERIALIZED (
      SELECT s.signal, s.wall_ns, s.boot_ns, s.value, s.uncertainty, s.time_source FROM spans y CROSS JOIN LATERAL (
          SELECT * FROM samples s WHERE s.batch = y.batch AND s.day = y.day AND s.signal = ANY (latitudes || longitudes || suspects)
            AND s.wall_ns >= greatest(y.first_ns, span.first_ns) AND s.wall_ns <= least(y.last_ns, span.last_ns, until) OFFSET 0) s
        WHERE y.device = vehicle AND y.last_ns >= span.first_ns AND y.last_ns < span.last_ns + 7200000000000 AND y.first_ns <= span.last_ns
          AND y.signals && (latitudes || longitudes || suspects))
    SELECT a.wall_ns AS at, a.uncertainty AS doubt, a.time_source AS source, a.value AS north, b.value AS east INTO best
      FROM p a JOIN p b ON b.signal = ANY (longitudes) AND b.wall_ns = a.wall_ns AND b.boot_ns = a.boot_ns
        LEFT JOIN p c ON c.signal = ANY (suspects) AND c.wall_ns = a.wall_ns AND c.boot_ns = a.boot_ns
      WHERE a.signal = ANY (latitudes) AND a.uncertainty <= doubt AND coalesce(c.value, 0) = 0 AND a.value BETWEEN -90 AND 90 AND b.value BETWEEN -180 AND 180
      ORDER BY a.wall_ns DESC LIMIT 1;
    IF best.at IS NOT NULL AND (wall_ns IS NULL OR best.at > wall_ns) THEN
      wall_ns := best.at; uncertainty := best.doubt; time_source := best.source; latitude := best.north; longitude := best.east;
    END IF;
  END LOOP;
END $$;

CREATE INDEX devices_in_order ON devices (tenant COLLATE "C", device COLLATE "C");
CREATE INDEX losses_by_batch ON losses (batch, idx);
CREATE INDEX dead_letters_by_topic ON dead_letters (topic COLLATE "C", id);

-- What a device has of what is limited (store.Limits), kept in the transaction that changes it.
ALTER TABLE devices ADD COLUMN epochs bigint NOT NULL DEFAULT 0, ADD COLUMN signals bigint NOT NULL DEFAULT 0, ADD COLUMN boots bigint NOT NULL DEFAULT 0,
  ADD COLUMN results bigint NOT NULL DEFAULT 0, ADD COLUMN parked bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN devices.parked IS 'What its parked batches cost: bytes, and 256 and a byte a sample for each.';
ALTER TABLE lanes ADD COLUMN runs bigint NOT NULL DEFAULT 0; -- its rows in ranges
CREATE VIEW epochs_of AS SELECT device, epoch FROM lanes UNION SELECT device, epoch FROM epochs UNION SELECT device, parent FROM epochs WHERE parent <> 0;
UPDATE devices d SET epochs = (SELECT count(*) FROM epochs_of x WHERE x.device = d.id), signals = (SELECT count(*) FROM signals x WHERE x.device = d.id),
  boots = (SELECT count(*) FROM clocks x WHERE x.device = d.id), results = (SELECT count(*) FROM results x WHERE x.device = d.id),
  parked = (SELECT coalesce(sum(length(x.bytes) + 256 + least(x.samples, 1048576)), 0) FROM batches x WHERE x.device = d.id AND x.state = 2);
UPDATE lanes l SET runs = (SELECT count(*) FROM ranges r WHERE r.device = l.device AND r.epoch = l.epoch AND r.lane = l.lane);

CREATE TABLE tenants (tenant text PRIMARY KEY, devices bigint NOT NULL);
INSERT INTO tenants SELECT tenant, count(*) FROM devices GROUP BY tenant;

CREATE TABLE slot_members ( -- processes that share slots
  share text NOT NULL,
  member uuid NOT NULL,       -- one start of one process
  until timestamptz NOT NULL, -- this server's clock
  joined bigint GENERATED ALWAYS AS IDENTITY,
  PRIMARY KEY (share, member)
);
CREATE TABLE slots ( -- who runs which
  share text NOT NULL,
  slot integer NOT NULL,
  member uuid NOT NULL,
  until timestamptz NOT NULL,
  PRIMARY KEY (share, slot)
);
`
