-- A second row for one id is damage, so it is looked for.
SELECT revision, db_timestamp, state_ser_id, state_ser_manifest, state_payload, tags
FROM durable_state
WHERE persistence_id = $1
ORDER BY revision
LIMIT 2
