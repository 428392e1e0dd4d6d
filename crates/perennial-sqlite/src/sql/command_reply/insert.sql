INSERT INTO perennial_command_reply (
  slice, entity_type, persistence_id, command_id, fingerprint, seq_nr, db_timestamp,
  reply_ser_id, reply_ser_manifest, reply_payload
) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
