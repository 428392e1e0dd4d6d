SELECT seq_nr, write_timestamp, ser_id, ser_manifest, snapshot,
       meta_ser_id, meta_ser_manifest, meta_payload
FROM snapshot
WHERE persistence_id = $1
  AND seq_nr BETWEEN $2 AND $3
  AND write_timestamp BETWEEN $4 AND $5
