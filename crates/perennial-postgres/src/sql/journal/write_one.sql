-- One event of one entity, by far the most frequent write of a quiet system: one round trip and
-- one row. $5 is the earliest time allowed, NULL without one. Nothing is stored, and nothing
-- answered, if the entity has the number or a higher one; see write_batch.sql.
INSERT INTO event_journal (
    slice, entity_type, persistence_id, seq_nr,
    db_timestamp,
    event_ser_id, event_ser_manifest, event_payload, writer, adapter_manifest,
    tags, meta_ser_id, meta_ser_manifest, meta_payload)
SELECT
    $1::int, $2::varchar, $3::varchar, $4::bigint,
    greatest(transaction_timestamp(), $5::timestamptz),
    $6::int, $7::varchar, $8::bytea, $9::varchar, '',
    $10::text[], $11::int, $12::varchar, $13::bytea
WHERE NOT EXISTS (
    SELECT FROM event_journal WHERE persistence_id = $3::varchar AND seq_nr >= $4::bigint)
RETURNING db_timestamp
