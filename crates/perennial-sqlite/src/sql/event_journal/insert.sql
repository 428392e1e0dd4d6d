-- `deleted` takes its default; `adapter_manifest` is always empty, as Pekko writes it.
INSERT INTO event_journal (
  slice, entity_type, persistence_id, seq_nr, db_timestamp,
  event_ser_id, event_ser_manifest, event_payload, writer, adapter_manifest, tags,
  meta_ser_id, meta_ser_manifest, meta_payload
) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, '', ?10, ?11, ?12, ?13)
