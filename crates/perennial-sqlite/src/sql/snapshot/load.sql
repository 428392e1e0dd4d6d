SELECT
  seq_nr, write_timestamp, ser_id, ser_manifest, snapshot,
  meta_ser_id, meta_ser_manifest, meta_payload
FROM snapshot
WHERE persistence_id = ?1
