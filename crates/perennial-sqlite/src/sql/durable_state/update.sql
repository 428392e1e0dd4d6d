-- Slice and entity type follow from the id. ?8 says that the row keeps its tags, as a marker does.
UPDATE durable_state SET
  revision = ?3,
  db_timestamp = ?4,
  state_ser_id = ?5,
  state_ser_manifest = ?6,
  state_payload = ?7,
  tags = CASE WHEN ?8 THEN tags ELSE ?9 END
WHERE persistence_id = ?1 AND revision = ?2
