-- By a scan, for tables without durable_state_slice_idx.
SELECT max(db_timestamp) FROM durable_state
WHERE typeof(db_timestamp) = 'integer'
