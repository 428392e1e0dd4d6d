-- Delete markers are read too: they tell the highest number.
SELECT seq_nr, db_timestamp, deleted,
       event_ser_id, event_ser_manifest, event_payload,
       meta_ser_id, meta_ser_manifest, meta_payload
FROM event_journal
WHERE persistence_id = $1 AND seq_nr >= $2 AND seq_nr <= $3
ORDER BY seq_nr
LIMIT $4
