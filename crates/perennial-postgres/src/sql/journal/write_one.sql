-- One event of one entity, by far the most frequent write of a quiet system: one round trip and
-- one row. $5 is the earliest time allowed, NULL without one.
INSERT INTO event_journal (
    slice, entity_type, persistence_id, seq_nr,
    db_timestamp,
    event_ser_id, event_ser_manifest, event_payload, writer, adapter_manifest,
    tags, meta_ser_id, meta_ser_manifest, meta_payload)
VALUES (
    $1, $2, $3, $4,
    greatest(transaction_timestamp(), $5::timestamptz),
    $6, $7, $8, $9, '',
    $10, $11, $12, $13)
RETURNING db_timestamp
