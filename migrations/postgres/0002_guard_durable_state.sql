-- With the primary key (persistence_id, revision) a stale writer can insert revision 1 beside a
-- later revision, which leaves two rows for one id. This index refuses the second row.
CREATE UNIQUE INDEX IF NOT EXISTS perennial_durable_state_id_idx ON durable_state(persistence_id);
