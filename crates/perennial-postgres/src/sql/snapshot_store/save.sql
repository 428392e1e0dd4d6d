-- A snapshot that says more than this one stays.
INSERT INTO snapshot (
    slice, entity_type, persistence_id, seq_nr, write_timestamp, ser_id, ser_manifest, snapshot,
    meta_ser_id, meta_ser_manifest, meta_payload)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (persistence_id) DO UPDATE SET
    seq_nr = excluded.seq_nr,
    write_timestamp = excluded.write_timestamp,
    ser_id = excluded.ser_id,
    ser_manifest = excluded.ser_manifest,
    snapshot = excluded.snapshot,
    meta_ser_id = excluded.meta_ser_id,
    meta_ser_manifest = excluded.meta_ser_manifest,
    meta_payload = excluded.meta_payload
WHERE snapshot.seq_nr <= excluded.seq_nr
