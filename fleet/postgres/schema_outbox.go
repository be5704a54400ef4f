package postgres

// schemaOutbox makes the commit outbox of the decoded topics (docs/KAFKA.md). Its rows are written in the transaction that stores what
// they name, and deleted once Kafka has it. Nobody may remember "up to this id": ids become visible out of order.
//
// There are no foreign keys: what a row names may be erased before it is carried, and then there is nothing to carry. The table is
// emptied as fast as it fills, so that it is vacuumed by count and not by share.
const schemaOutbox = `
CREATE TABLE outbox (
  id bigint GENERATED ALWAYS AS IDENTITY,
  shard smallint NOT NULL,  -- device % 16: one relay at a time carries a shard
  kind smallint NOT NULL,   -- 1 the samples of a batch, 2 likewise, dated again, 3 a record of the loss ledger
  device bigint NOT NULL,
  batch bigint NOT NULL,
  idx bigint NOT NULL,      -- of the record in its batch; 0 of samples
  at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (shard, id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000);
COMMENT ON TABLE outbox IS 'What was committed and is not on the decoded topics yet; empty where nobody wants those.';

CREATE TABLE outbox_parked ( -- batches that were parked when the outbox was switched on: a backfill leaves them to their settling
  batch bigint PRIMARY KEY
);
`
