-- Many events without tags and metadata, sorted by id and number. All times follow from the
-- transaction's, so that no row has to be sent back.
WITH stored AS (
    INSERT INTO event_journal (
        slice, entity_type, persistence_id, seq_nr,
        db_timestamp,
        event_ser_id, event_ser_manifest, event_payload, writer, adapter_manifest)
    SELECT slice, entity_type, persistence_id, seq_nr,
           greatest(transaction_timestamp() + position * interval '1 microsecond', not_before),
           event_ser_id, event_ser_manifest, event_payload, writer, ''
    FROM unnest($1::int[], $2::text[], $3::text[], $4::bigint[], $5::int[], $6::timestamptz[],
                $7::int[], $8::text[], $9::bytea[], $10::text[])
        AS new (slice, entity_type, persistence_id, seq_nr, position, not_before,
                event_ser_id, event_ser_manifest, event_payload, writer)
)
SELECT transaction_timestamp()
