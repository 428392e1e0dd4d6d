-- The six tables of Pekko's R2DBC plugin and their two indexes, column for column as in
-- migrations/postgres, so that one description of the rows holds for both databases.
--
-- PostgreSQL                  SQLite    holds
-- INT, INTEGER, BIGINT        INTEGER   the same number
-- VARCHAR(n), TEXT            TEXT      UTF-8; the length is checked before a row is written
-- TIMESTAMP WITH TIME ZONE    INTEGER   microseconds since 1970-01-01T00:00:00Z
-- BOOLEAN                     INTEGER   0 or 1
-- BYTEA                       BLOB      the same bytes
-- TEXT ARRAY                  TEXT      a JSON array of texts; NULL when there are none
--
-- SQLite sorts text and blobs by their bytes, so ids compare the same here and in Rust.
--
-- The primary keys are NOT NULL as in PostgreSQL, which SQLite does not infer by itself.
--
-- Every statement can be run again: what is there already, whoever made it, stays as it is.

CREATE TABLE IF NOT EXISTS event_journal (
  slice INTEGER NOT NULL,
  entity_type TEXT NOT NULL,
  persistence_id TEXT NOT NULL,
  seq_nr INTEGER NOT NULL,
  db_timestamp INTEGER NOT NULL,
  event_ser_id INTEGER NOT NULL,
  event_ser_manifest TEXT NOT NULL,
  event_payload BLOB NOT NULL,
  deleted INTEGER DEFAULT FALSE NOT NULL,
  writer TEXT NOT NULL,
  adapter_manifest TEXT,
  tags TEXT,
  meta_ser_id INTEGER,
  meta_ser_manifest TEXT,
  meta_payload BLOB,
  PRIMARY KEY (persistence_id, seq_nr)
);

CREATE INDEX IF NOT EXISTS event_journal_slice_idx
  ON event_journal (slice, entity_type, db_timestamp, seq_nr);

CREATE TABLE IF NOT EXISTS snapshot (
  slice INTEGER NOT NULL,
  entity_type TEXT NOT NULL,
  persistence_id TEXT NOT NULL,
  seq_nr INTEGER NOT NULL,
  write_timestamp INTEGER NOT NULL,
  ser_id INTEGER NOT NULL,
  ser_manifest TEXT NOT NULL,
  snapshot BLOB NOT NULL,
  meta_ser_id INTEGER,
  meta_ser_manifest TEXT,
  meta_payload BLOB,
  PRIMARY KEY (persistence_id)
);

CREATE TABLE IF NOT EXISTS durable_state (
  slice INTEGER NOT NULL,
  entity_type TEXT NOT NULL,
  persistence_id TEXT NOT NULL,
  revision INTEGER NOT NULL,
  db_timestamp INTEGER NOT NULL,
  state_ser_id INTEGER NOT NULL,
  state_ser_manifest TEXT,
  state_payload BLOB NOT NULL,
  tags TEXT,
  PRIMARY KEY (persistence_id, revision)
);

CREATE INDEX IF NOT EXISTS durable_state_slice_idx
  ON durable_state (slice, entity_type, db_timestamp, revision);

-- Offsets that are no timestamps. `last_updated` is in milliseconds, here and below.
CREATE TABLE IF NOT EXISTS projection_offset_store (
  projection_name TEXT NOT NULL,
  projection_key TEXT NOT NULL,
  current_offset TEXT NOT NULL,
  manifest TEXT NOT NULL,
  mergeable INTEGER NOT NULL,
  last_updated INTEGER NOT NULL,
  PRIMARY KEY (projection_name, projection_key)
);

CREATE TABLE IF NOT EXISTS projection_timestamp_offset_store (
  projection_name TEXT NOT NULL,
  projection_key TEXT NOT NULL,
  slice INTEGER NOT NULL,
  persistence_id TEXT NOT NULL,
  seq_nr INTEGER NOT NULL,
  -- The db_timestamp of the event that was processed.
  timestamp_offset INTEGER NOT NULL,
  -- When the offset was stored; the difference is how far the projection lags behind.
  timestamp_consumed INTEGER NOT NULL,
  PRIMARY KEY (slice, projection_name, timestamp_offset, persistence_id, seq_nr)
);

CREATE TABLE IF NOT EXISTS projection_management (
  projection_name TEXT NOT NULL,
  projection_key TEXT NOT NULL,
  paused INTEGER NOT NULL,
  last_updated INTEGER NOT NULL,
  PRIMARY KEY (projection_name, projection_key)
);
