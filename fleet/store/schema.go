package store

// schemaVersion is SQLite's user_version; applicationID marks the file as ours ("WBfl").
const (
	schemaVersion = 5
	applicationID = 0x5742666C
)

// retimings is what version 2 has more than version 1.
const retimings = `CREATE TABLE retimings ( -- samples that an older clock record dates, until they are dated again
  device INTEGER NOT NULL REFERENCES devices,
  boot_id BLOB NOT NULL,
  from_ns INTEGER NOT NULL, -- CLOCK_BOOTTIME of the first
  done INTEGER NOT NULL,    -- row of the last batch that was dated again
  PRIMARY KEY (device, boot_id)
) WITHOUT ROWID;`

// resultColumns is what version 3 has more than version 2: what the answers to commands have said ever since.
const resultColumns = `ALTER TABLE results ADD COLUMN reason TEXT NOT NULL DEFAULT '';
ALTER TABLE results ADD COLUMN boot_id BLOB NOT NULL DEFAULT x'';
ALTER TABLE results ADD COLUMN boot_count INTEGER NOT NULL DEFAULT 0;
ALTER TABLE results ADD COLUMN key_id BLOB NOT NULL DEFAULT x'';
ALTER TABLE results ADD COLUMN counter INTEGER NOT NULL DEFAULT 0;`

// offsets is what version 4 has more than version 3.
const offsets = `CREATE TABLE offsets ( -- how far Kafka's partitions are stored
  topic TEXT NOT NULL,
  partition INTEGER NOT NULL,
  next INTEGER NOT NULL, -- the offset that comes next
  PRIMARY KEY (topic, partition)
) WITHOUT ROWID;`

// upgrades lead from one version to the next, from version 1 on.
var upgrades = []string{retimings, resultColumns, offsets, views}

// schema makes an empty store.
//
// Unsigned 64-bit numbers (epochs, seqs) stand as two's complement. samples.raw has no type of its own: an integer, a
// real, a text, or 8 bytes big-endian where SQLite has no such number (an unsigned one above 2^63−1, a NaN); kind says
// which. samples.value is the physical value for people who ask in SQL: exact for integers without scale and offset.
const schema = `
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;

CREATE TABLE devices (
  id INTEGER PRIMARY KEY,
  tenant TEXT NOT NULL,
  device TEXT NOT NULL,
  first_seen INTEGER NOT NULL, -- Unix ns, the receiver's clock
  last_seen INTEGER NOT NULL,
  receipts INTEGER NOT NULL DEFAULT 0,
  UNIQUE (tenant, device)
);

CREATE TABLE epochs (
  device INTEGER NOT NULL REFERENCES devices,
  epoch INTEGER NOT NULL,
  parent INTEGER NOT NULL,
  parent_last TEXT NOT NULL, -- JSON: [{"lane":3,"seq":17}]
  first TEXT NOT NULL,       -- likewise: this epoch's first seq of each lane, where it is not 1
  reason TEXT NOT NULL,
  received INTEGER NOT NULL,
  PRIMARY KEY (device, epoch)
) WITHOUT ROWID;

CREATE TABLE catalogues (
  id INTEGER PRIMARY KEY,
  device INTEGER NOT NULL REFERENCES devices,
  hash BLOB NOT NULL,  -- SHA-256
  short BLOB NOT NULL, -- its first 16 bytes, as envelopes name it
  data BLOB NOT NULL,
  received INTEGER NOT NULL,
  UNIQUE (device, short)
);

CREATE TABLE catalogue_parts ( -- of catalogues that are not complete
  device INTEGER NOT NULL REFERENCES devices,
  hash BLOB NOT NULL,
  idx INTEGER NOT NULL,
  count INTEGER NOT NULL,
  data BLOB NOT NULL,
  PRIMARY KEY (device, hash, idx)
) WITHOUT ROWID;

CREATE TABLE signals (
  id INTEGER PRIMARY KEY,
  device INTEGER NOT NULL REFERENCES devices,
  catalogue INTEGER NOT NULL, -- row of the catalogue; 0: came by name only
  number INTEGER NOT NULL,    -- signal id within the catalogue
  name TEXT NOT NULL,
  unit TEXT NOT NULL,
  scale REAL NOT NULL,
  offset REAL NOT NULL,
  type INTEGER NOT NULL,      -- ValueType
  labels TEXT NOT NULL,       -- JSON: {"1":"on"}; empty: none
  source TEXT NOT NULL,
  message TEXT NOT NULL
);
CREATE UNIQUE INDEX signals_by_number ON signals (catalogue, number) WHERE catalogue > 0;
CREATE INDEX signals_by_name ON signals (device, name);

CREATE TABLE batches (
  id INTEGER PRIMARY KEY,
  device INTEGER NOT NULL REFERENCES devices,
  epoch INTEGER NOT NULL,
  lane INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  crc32c INTEGER NOT NULL,
  sha256 BLOB,             -- NULL: came rendered
  boot_id BLOB NOT NULL,
  boot_count INTEGER NOT NULL,
  catalogue BLOB NOT NULL, -- first 16 bytes of its hash; zero: none
  first_ns INTEGER NOT NULL,
  span_ns INTEGER NOT NULL,
  samples INTEGER NOT NULL,
  form INTEGER NOT NULL,   -- 1 columns, 2 plain
  state INTEGER NOT NULL,  -- 1 stored, 2 parked, 3 superseded, 4 rejected
  reason TEXT NOT NULL,
  bytes BLOB,              -- parked only
  received INTEGER NOT NULL,
  UNIQUE (device, epoch, lane, seq)
);
CREATE INDEX batches_by_boot ON batches (device, boot_id);
CREATE INDEX batches_parked ON batches (device, catalogue) WHERE state = 2;

CREATE TABLE supersedes (
  batch INTEGER NOT NULL REFERENCES batches,
  first INTEGER NOT NULL,
  last INTEGER NOT NULL,
  PRIMARY KEY (batch, first)
) WITHOUT ROWID;

CREATE TABLE samples (
  batch INTEGER NOT NULL REFERENCES batches,
  idx INTEGER NOT NULL,     -- place in the batch: with the batch's key, the identity of a sample
  signal INTEGER NOT NULL REFERENCES signals,
  boot_ns INTEGER NOT NULL, -- CLOCK_BOOTTIME
  wall_ns INTEGER,          -- Unix ns; NULL: not known
  uncertainty INTEGER,      -- half width, ns
  time_source INTEGER NOT NULL,
  kind INTEGER NOT NULL,    -- of raw: 1 int, 2 uint, 3 float, 4 text, 5 bytes, 0 not carried
  raw,
  value,
  label TEXT,               -- only where no catalogue can give it
  PRIMARY KEY (batch, idx)
) WITHOUT ROWID;
CREATE INDEX samples_by_time ON samples (signal, wall_ns);

CREATE TABLE clocks (
  device INTEGER NOT NULL REFERENCES devices,
  boot_id BLOB NOT NULL,
  boot_count INTEGER NOT NULL,
  revision INTEGER NOT NULL,
  record BLOB NOT NULL,    -- ClockRecord
  received INTEGER NOT NULL,
  PRIMARY KEY (device, boot_id)
) WITHOUT ROWID;

` + retimings + `

CREATE TABLE losses (
  batch INTEGER NOT NULL REFERENCES batches,
  idx INTEGER NOT NULL,
  device INTEGER NOT NULL REFERENCES devices,
  reason INTEGER NOT NULL, -- LossReason
  source TEXT NOT NULL,
  count INTEGER NOT NULL,
  count_is_bound INTEGER NOT NULL,
  count_unknown INTEGER NOT NULL,
  unit TEXT NOT NULL,
  boot_id BLOB NOT NULL,
  first_ns INTEGER NOT NULL,
  last_ns INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  lane INTEGER NOT NULL,
  seqs TEXT NOT NULL,      -- JSON: [{"first":3,"last":5}]
  detail TEXT NOT NULL,
  PRIMARY KEY (batch, idx)
) WITHOUT ROWID;

CREATE TABLE device_info (
  batch INTEGER NOT NULL REFERENCES batches,
  idx INTEGER NOT NULL,
  device INTEGER NOT NULL REFERENCES devices,
  boot_count INTEGER NOT NULL,
  boot_ns INTEGER NOT NULL,
  vin TEXT NOT NULL,
  mode TEXT NOT NULL,
  versions TEXT NOT NULL,  -- JSON
  PRIMARY KEY (batch, idx)
) WITHOUT ROWID;

CREATE TABLE results (
  device INTEGER NOT NULL REFERENCES devices,
  id TEXT NOT NULL,
  name TEXT NOT NULL,
  state TEXT NOT NULL,
  percent INTEGER NOT NULL,
  text TEXT NOT NULL,
  boot_ns INTEGER NOT NULL,
  received INTEGER NOT NULL,
  PRIMARY KEY (device, id)
) WITHOUT ROWID;
` + resultColumns + `

` + offsets + `

CREATE TABLE status (
  device INTEGER PRIMARY KEY REFERENCES devices,
  online INTEGER NOT NULL,
  version TEXT NOT NULL,
  status BLOB NOT NULL,
  received INTEGER NOT NULL
);

CREATE TABLE dead_letters (
  id INTEGER PRIMARY KEY,
  topic TEXT NOT NULL,
  reason TEXT NOT NULL,
  detail TEXT NOT NULL,
  sha256 BLOB NOT NULL,
  size INTEGER NOT NULL, -- of the whole
  bytes BLOB NOT NULL,   -- a bounded head
  times INTEGER NOT NULL,
  first_at INTEGER NOT NULL,
  last_at INTEGER NOT NULL,
  UNIQUE (topic, reason, sha256)
);

-- readings is the table that people ask: one row a sample, with its key and its names.
CREATE VIEW readings AS
SELECT d.tenant, d.device, printf('%016x', b.epoch) AS epoch, b.lane, b.seq, s.idx, g.name, g.unit,
       s.wall_ns, s.uncertainty, s.time_source, hex(b.boot_id) AS boot_id, s.boot_ns, s.kind, s.raw, s.value,
       coalesce(s.label, CASE WHEN g.labels <> '' AND s.kind BETWEEN 1 AND 2 THEN json_extract(g.labels, '$."' || s.raw || '"') END) AS label
FROM samples s JOIN batches b ON b.id = s.batch JOIN devices d ON d.id = b.device JOIN signals g ON g.id = s.signal;
` + views
