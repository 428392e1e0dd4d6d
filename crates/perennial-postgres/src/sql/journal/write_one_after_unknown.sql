-- As write_one.sql, when the writer does not know the time of the event before.
INSERT INTO event_journal (
    slice, entity_type, persistence_id, seq_nr,
    db_timestamp,
    event_ser_id, event_ser_manifest, event_payload, writer, adapter_manifest,
    tags, meta_ser_id, meta_ser_manifest, meta_payload)
SELECT
    $1::int, $2::varchar, $3::varchar, $4::bigint,
    greatest(transaction_timestamp(),
             (SELECT db_timestamp FROM event_journal
              WHERE persistence_id = $3::varchar AND seq_nr = $4::bigint - 1) + interval '1 microsecond'),
    $5::int, $6::varchar, $7::bytea, $8::varchar, '',
    $9::text[], $10::int, $11::varchar, $12::bytea
WHERE NOT EXISTS (
    SELECT FROM event_journal WHERE persistence_id = $3::varchar AND seq_nr >= $4::bigint)
RETURNING db_timestamp
