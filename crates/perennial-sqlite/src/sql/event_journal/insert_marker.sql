-- A row that keeps the number and is no event: serializer 0, no bytes, no writer.
INSERT INTO event_journal (
  slice, entity_type, persistence_id, seq_nr, db_timestamp,
  event_ser_id, event_ser_manifest, event_payload, deleted, writer, adapter_manifest
) VALUES (?1, ?2, ?3, ?4, ?5, 0, '', x'', TRUE, '', '')
