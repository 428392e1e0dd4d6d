INSERT INTO perennial_reminder (
  slice, entity_type, persistence_id, reminder_key, due,
  reminder_ser_id, reminder_ser_manifest, reminder_payload
) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
ON CONFLICT (persistence_id, reminder_key) DO UPDATE SET
  entity_type = excluded.entity_type,
  due = excluded.due,
  reminder_ser_id = excluded.reminder_ser_id,
  reminder_ser_manifest = excluded.reminder_ser_manifest,
  reminder_payload = excluded.reminder_payload
