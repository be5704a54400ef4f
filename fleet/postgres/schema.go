package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/waybill-telematics/waybill/fleet/store"
)

// application marks a schema as ours, in meta.
const application = "waybill-fleet"

// openLock is the key of the advisory lock under which tables are made and migrated ("WBfl", as SQLite's application id).
const openLock = 0x5742666C

// updateLock is the key of the advisory lock that transactions of Update share, or one has alone ("WBup").
const updateLock = 0x57427570

// migrations lead from one version of the schema to the next; a new store runs through all. What is here is never changed.
var migrations = []string{schema1, schemaOutbox, schemaTables, schemaPage, schemaMeans}

// schema1 makes an empty store (docs/STORE.md).
//
// Unsigned 64-bit numbers (epochs) stand as two's complement; numbers of batches are below 2^63. samples has neither NULLs in the usual row nor foreign keys: a row is 100 bytes, and there are
// very many. Its rows are found by their batch, and a batch is found by its device.
const schema1 = `
CREATE TABLE meta (key text PRIMARY KEY, value text NOT NULL);

CREATE TABLE devices (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant text NOT NULL,
  device text NOT NULL,
  first_seen timestamptz NOT NULL, -- the receiver's clock
  last_seen timestamptz NOT NULL,
  receipts bigint NOT NULL DEFAULT 0,
  copies boolean NOT NULL DEFAULT false, -- it has sent thinned copies
  UNIQUE (tenant, device)
) WITH (fillfactor = 70);
COMMENT ON TABLE devices IS 'One row a device. Whoever changes anything of a device holds its row.';

CREATE TABLE epochs (
  device bigint NOT NULL REFERENCES devices,
  epoch bigint NOT NULL,
  parent bigint NOT NULL,
  parent_last jsonb NOT NULL, -- [{"lane":3,"seq":17}]
  first jsonb NOT NULL,       -- likewise: this epoch's first seq of each lane, where it is not 1
  reason text NOT NULL,
  received timestamptz NOT NULL,
  PRIMARY KEY (device, epoch)
);

CREATE TABLE catalogues (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  device bigint NOT NULL REFERENCES devices,
  hash bytea NOT NULL, -- SHA-256
  short uuid NOT NULL, -- its first 16 bytes, as envelopes name it
  data bytea NOT NULL,
  received timestamptz NOT NULL,
  UNIQUE (device, short)
);

CREATE TABLE catalogue_parts ( -- of catalogues that are not complete
  device bigint NOT NULL REFERENCES devices,
  hash bytea NOT NULL,
  idx bigint NOT NULL,
  count bigint NOT NULL,
  data bytea NOT NULL,
  PRIMARY KEY (device, hash, idx)
);

CREATE TABLE signals (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  device bigint NOT NULL REFERENCES devices,
  catalogue bigint NOT NULL,  -- row of the catalogue; 0: came by name only
  number bigint NOT NULL,     -- signal id within the catalogue
  name text NOT NULL,
  unit text NOT NULL,
  scale double precision NOT NULL,
  "offset" double precision NOT NULL,
  type integer NOT NULL,      -- ValueType
  labels json,                -- {"1":"on"}; NULL: none
  source text NOT NULL,
  message text NOT NULL
);
CREATE UNIQUE INDEX signals_by_number ON signals (catalogue, number) WHERE catalogue > 0;
CREATE INDEX signals_by_name ON signals (device, name);

CREATE SEQUENCE batch_rows;
CREATE TABLE batches (
  id bigint NOT NULL DEFAULT nextval('batch_rows'),
  device bigint NOT NULL REFERENCES devices,
  epoch bigint NOT NULL,
  lane integer NOT NULL,
  seq bigint NOT NULL,
  crc32c bigint NOT NULL,
  sha256 bytea,             -- NULL: came rendered
  boot_id uuid NOT NULL,
  boot_count bigint NOT NULL,
  catalogue uuid NOT NULL,  -- first 16 bytes of its hash; zero: none
  first_ns bigint NOT NULL, -- CLOCK_BOOTTIME
  span_ns bigint NOT NULL,
  samples bigint NOT NULL,
  form smallint NOT NULL,   -- 1 columns, 2 plain
  state smallint NOT NULL,  -- 1 stored, 2 parked, 3 superseded, 4 rejected
  reason text NOT NULL,
  bytes bytea,              -- parked only
  day date NOT NULL,        -- of its samples: the day of received, UTC
  received timestamptz NOT NULL,
  PRIMARY KEY (device, epoch, lane, seq)
) PARTITION BY HASH (device);
DO $$ BEGIN
  FOR i IN 0..15 LOOP
    EXECUTE format('CREATE TABLE batches_%s PARTITION OF batches FOR VALUES WITH (MODULUS 16, REMAINDER %s)', lpad(i::text, 2, '0'), i);
  END LOOP;
END $$;
CREATE INDEX batches_by_row ON batches (id);
CREATE INDEX batches_by_day ON batches (device, day);
CREATE INDEX batches_by_boot ON batches (device, boot_id, id);
CREATE INDEX batches_parked ON batches (device, catalogue) WHERE state = 2;

CREATE TABLE lanes ( -- what batches, losses, supersedes and epochs come to, one row a sequence of numbers
  device bigint NOT NULL REFERENCES devices,
  epoch bigint NOT NULL,
  lane integer NOT NULL,
  first_batch bigint,          -- row of its first batch; NULL: only spoken of
  batches bigint NOT NULL,
  samples bigint NOT NULL,
  parked bigint NOT NULL,
  rejected bigint NOT NULL,
  superseded bigint NOT NULL,
  last bigint NOT NULL,        -- highest seq that came
  announced bigint NOT NULL,   -- highest seq that was given, as a later epoch says
  missing bigint NOT NULL,     -- of 1 to the highest of the two, those that no range holds
  PRIMARY KEY (device, epoch, lane)
) WITH (fillfactor = 70);
CREATE INDEX lanes_with_gaps ON lanes (device) WHERE missing > 0;

CREATE TABLE ranges ( -- runs of numbers that came, were lost or are superseded; they neither touch nor overlap
  device bigint NOT NULL REFERENCES devices,
  epoch bigint NOT NULL,
  lane integer NOT NULL,
  first bigint NOT NULL,
  last bigint NOT NULL,
  PRIMARY KEY (device, epoch, lane, first)
) WITH (fillfactor = 70);

CREATE TABLE supersedes (
  batch bigint NOT NULL,
  device bigint NOT NULL REFERENCES devices,
  epoch bigint NOT NULL,
  lane integer NOT NULL,
  first bigint NOT NULL,
  last bigint NOT NULL,
  PRIMARY KEY (device, epoch, lane, batch, first)
);

CREATE TABLE samples (
  day date NOT NULL,             -- batches.day
  idx integer NOT NULL,          -- place in the batch (two's complement): with the batch's key, the identity of a sample
  batch bigint NOT NULL,
  signal bigint NOT NULL,
  boot_ns bigint NOT NULL,       -- CLOCK_BOOTTIME
  wall_ns bigint,                -- Unix ns; NULL: not known
  uncertainty bigint,            -- half width, ns
  bits bigint NOT NULL,          -- raw: the number's 64 bits, as kind says
  value double precision,        -- physical; NULL: none
  time_source smallint NOT NULL,
  kind smallint NOT NULL,        -- of raw: 1 int, 2 uint, 3 float, 4 text, 5 bytes, 0 not carried
  raw bytea NOT NULL,            -- raw: text and bytes; else empty
  label text NOT NULL            -- only where no catalogue can give it; else empty
) PARTITION BY RANGE (day);
CREATE INDEX samples_by_batch ON samples (batch);
CREATE INDEX samples_by_time ON samples USING brin (wall_ns) WITH (pages_per_range = 32, autosummarize = on);

CREATE TABLE clocks (
  device bigint NOT NULL REFERENCES devices,
  boot_id uuid NOT NULL,
  boot_count bigint NOT NULL,
  revision bigint NOT NULL,
  record bytea NOT NULL, -- ClockRecord
  received timestamptz NOT NULL,
  PRIMARY KEY (device, boot_id)
);

CREATE TABLE retimings ( -- samples that an older clock record dates, until they are dated again
  device bigint NOT NULL REFERENCES devices,
  boot_id uuid NOT NULL,
  from_ns bigint NOT NULL, -- CLOCK_BOOTTIME of the first
  done bigint NOT NULL,    -- row of the last batch that was dated again
  PRIMARY KEY (device, boot_id)
);

CREATE TABLE losses (
  batch bigint NOT NULL,
  idx bigint NOT NULL,
  device bigint NOT NULL REFERENCES devices,
  reason integer NOT NULL, -- LossReason
  source text NOT NULL,
  count bigint NOT NULL,
  count_is_bound boolean NOT NULL,
  count_unknown boolean NOT NULL,
  unit text NOT NULL,
  boot_id bytea NOT NULL,
  first_ns bigint NOT NULL,
  last_ns bigint NOT NULL,
  epoch bigint NOT NULL,
  lane integer NOT NULL,
  seqs jsonb NOT NULL,     -- [{"first":3,"last":5}]
  detail text NOT NULL,
  PRIMARY KEY (device, batch, idx)
);

CREATE TABLE device_info (
  batch bigint NOT NULL,
  idx bigint NOT NULL,
  device bigint NOT NULL REFERENCES devices,
  boot_count bigint NOT NULL,
  boot_ns bigint NOT NULL,
  vin text NOT NULL,
  mode text NOT NULL,
  versions json NOT NULL,
  PRIMARY KEY (device, batch, idx)
);

CREATE TABLE results (
  device bigint NOT NULL REFERENCES devices,
  id text NOT NULL,
  name text NOT NULL,
  state text NOT NULL,
  percent bigint NOT NULL,
  text text NOT NULL,
  boot_ns bigint NOT NULL,
  received timestamptz NOT NULL,
  reason text NOT NULL,
  boot_id bytea NOT NULL,
  boot_count bigint NOT NULL,
  key_id bytea NOT NULL,
  counter bigint NOT NULL,
  PRIMARY KEY (device, id)
);

CREATE TABLE status (
  device bigint PRIMARY KEY REFERENCES devices,
  online boolean NOT NULL,
  version text NOT NULL,
  status bytea NOT NULL, -- Status
  received timestamptz NOT NULL
);

CREATE TABLE dead_letters (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  topic text NOT NULL,
  reason text NOT NULL,
  detail text NOT NULL,
  sha256 bytea NOT NULL,
  size bigint NOT NULL, -- of the whole
  bytes bytea NOT NULL, -- a bounded head
  times bigint NOT NULL,
  first_at timestamptz NOT NULL,
  last_at timestamptz NOT NULL,
  UNIQUE (topic, reason, sha256)
);

CREATE TABLE offsets ( -- how far Kafka's partitions are stored
  topic text NOT NULL,
  partition integer NOT NULL,
  next bigint NOT NULL, -- the offset that comes next
  PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);

CREATE TABLE totals ( -- the sum over its rows counts the store; each session adds to one of them
  shard integer PRIMARY KEY,
  devices bigint NOT NULL,
  batches bigint NOT NULL,
  samples bigint NOT NULL,
  parked bigint NOT NULL,
  rejected bigint NOT NULL,
  losses bigint NOT NULL,
  letters bigint NOT NULL
) WITH (fillfactor = 50);

CREATE FUNCTION readable(raw bytea) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT AS
  $$ BEGIN RETURN convert_from(raw, 'UTF8'); EXCEPTION WHEN OTHERS THEN RETURN encode(raw, 'escape'); END $$;
CREATE VIEW readings AS
SELECT d.tenant, d.device, lpad(to_hex(b.epoch), 16, '0') AS epoch, b.lane, b.seq, s.idx & 4294967295 AS idx, g.name, g.unit,
       'epoch'::timestamptz + s.wall_ns / 1000 * interval '1 microsecond' AS time,
       s.wall_ns, s.uncertainty, s.time_source, b.boot_id, s.boot_ns, s.kind,
       CASE s.kind WHEN 1 THEN s.bits::text WHEN 2 THEN (s.bits::numeric + CASE WHEN s.bits < 0 THEN 18446744073709551616 ELSE 0 END)::text
         WHEN 4 THEN readable(s.raw) WHEN 5 THEN encode(s.raw, 'hex') END AS raw,
       s.bits, s.value,
       coalesce(nullif(s.label, ''), CASE WHEN s.kind = 1 OR s.kind = 2 AND s.bits >= 0 THEN g.labels ->> s.bits::text END) AS label,
       s.day
FROM samples s JOIN batches b ON b.id = s.batch AND b.day = s.day JOIN devices d ON d.id = b.device JOIN signals g ON g.id = s.signal;
COMMENT ON VIEW readings IS 'One row a sample, with its key and its names: the table that people ask.';
`

// prepare makes the tables of an empty schema, brings older ones up to date, and refuses those of others. The caller
// holds openLock.
func prepare(ctx context.Context, c *pgx.Conn, readOnly bool) error {
	var relations int
	if err := c.QueryRow(ctx, `SELECT count(*) FROM pg_class k WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f')
	    AND NOT EXISTS (SELECT 1 FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = k.oid AND e.deptype = 'e')`).Scan(&relations); err != nil {
		return err
	}
	version := 0
	if relations > 0 {
		var app, text string
		err := c.QueryRow(ctx, `SELECT (SELECT value FROM meta WHERE key = 'application'), (SELECT value FROM meta WHERE key = 'schema')`).Scan(&app, &text)
		var refused *pgconn.PgError
		if err != nil && !errors.As(err, &refused) && ctx.Err() != nil {
			return err
		}
		if err == nil {
			version, err = strconv.Atoi(text)
		}
		if err != nil || app != application {
			return fmt.Errorf("%w: its tables are another program's; give the fleet a database, or a schema (search_path), of its own", store.ErrSchema)
		}
	}
	switch {
	case version == len(migrations):
		return nil
	case version > len(migrations):
		return fmt.Errorf("%w: schema version %d, this program knows %d: use a newer one", store.ErrSchema, version, len(migrations))
	case readOnly && version == 0:
		return fmt.Errorf("%w: the database is empty", store.ErrSchema)
	case readOnly:
		return fmt.Errorf("%w: schema version %d, want %d: `waybill-fleet serve` brings it up to date", store.ErrSchema, version, len(migrations))
	}
	return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		for ; version < len(migrations); version++ {
			// Several statements at once go by the simple protocol only.
			if _, err := tx.Exec(ctx, migrations[version], pgx.QueryExecModeSimpleProtocol); err != nil {
				return fmt.Errorf("schema version %d: %w", version+1, err)
			}
		}
		_, err := tx.Exec(ctx, "INSERT INTO meta VALUES ('application', $1), ('schema', $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
			application, strconv.Itoa(version))
		return err
	})
}
