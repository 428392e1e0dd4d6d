-- As event_journal/latest_before.sql, in durable_state_slice_idx.
SELECT slice, entity_type, db_timestamp
FROM durable_state
WHERE (slice, entity_type, db_timestamp) < (?1, ?2, -9223372036854775808)
  AND typeof(db_timestamp) = 'integer'
ORDER BY slice DESC, entity_type DESC, db_timestamp DESC
LIMIT 1
