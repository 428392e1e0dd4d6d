-- ?3 is a JSON array of the names of entity types.
SELECT persistence_id, entity_type, reminder_key, due,
  reminder_ser_id, reminder_ser_manifest, reminder_payload
FROM perennial_reminder
WHERE due BETWEEN ?4 AND ?7
  AND (due > ?4 OR (persistence_id, reminder_key) > (?5, ?6))
  AND slice BETWEEN ?1 AND ?2
  AND entity_type IN (SELECT value FROM json_each(?3))
ORDER BY due, persistence_id, reminder_key
LIMIT ?8
