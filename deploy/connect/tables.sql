-- The tables of jdbc-rows.json, jdbc-positions.json and jdbc-losses.json, named as the topics with '_' for '.'. They may stand in any PostgreSQL.
CREATE TABLE wb1_samples (
    tenant text, device text, epoch text, lane text, seq bigint, index int, -- the identity of a row
    name text NOT NULL, unit text, value double precision, text text, label text,
    time timestamptz,                         -- null: not dated yet
    uncertainty_ns bigint, boot_id text, boot_ns bigint,
    received timestamptz NOT NULL,
    PRIMARY KEY (tenant, device, epoch, lane, seq, index)
);
CREATE INDEX ON wb1_samples (tenant, device, name, time);

CREATE TABLE wb1_events (LIKE wb1_samples INCLUDING ALL);

CREATE TABLE wb1_positions (
    tenant text, device text, epoch text, lane text, seq bigint, index int,
    source text NOT NULL, latitude double precision NOT NULL, longitude double precision NOT NULL,
    altitude double precision, speed double precision, course double precision, -- m, m/s, degrees
    suspect boolean NOT NULL, time timestamptz, uncertainty_ns bigint,
    received timestamptz NOT NULL,
    PRIMARY KEY (tenant, device, epoch, lane, seq, index)
);
CREATE INDEX ON wb1_positions (tenant, device, time);

CREATE TABLE wb1_losses (
    tenant text, device text, epoch text, seq bigint, index int, -- of the record, which is in the control lane
    lane text,                                                    -- of what is lost; null: of none
    source text, reason text, count bigint, unit text, detail text,
    received timestamptz NOT NULL,
    PRIMARY KEY (tenant, device, epoch, seq, index)
);
