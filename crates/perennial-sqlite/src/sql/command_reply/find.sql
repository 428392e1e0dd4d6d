SELECT command_id, fingerprint, seq_nr, db_timestamp,
  reply_ser_id, reply_ser_manifest, reply_payload
FROM perennial_command_reply
WHERE persistence_id = ?1 AND command_id = ?2
