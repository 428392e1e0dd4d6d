-- Asks by itself whether there is a row: the unique index that would refuse a second one is missing
-- where two rows of old stand in its way.
INSERT INTO durable_state (
  slice, entity_type, persistence_id, revision, db_timestamp,
  state_ser_id, state_ser_manifest, state_payload, tags
)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9
WHERE NOT EXISTS (SELECT 1 FROM durable_state WHERE persistence_id = ?3)
