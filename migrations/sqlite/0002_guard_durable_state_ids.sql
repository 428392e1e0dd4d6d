-- One row per id. The primary key (persistence_id, revision) alone lets a stale writer insert
-- revision 1 beside a later revision, and leaves two rows for one id.
--
-- Where two such rows are there already, this index is not made; it is tried again at every start.

CREATE UNIQUE INDEX IF NOT EXISTS durable_state_persistence_id_idx
  ON durable_state (persistence_id);
