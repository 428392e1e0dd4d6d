-- As write_batch_with_metadata.sql, with the replies of commands that carry an id. What has left
-- the window makes room first: the insert of the replies reads what that delete returns and so
-- runs after it.
WITH stored AS (
    INSERT INTO event_journal (
        slice, entity_type, persistence_id, seq_nr,
        db_timestamp,
        event_ser_id, event_ser_manifest, event_payload, writer, adapter_manifest,
        tags, meta_ser_id, meta_ser_manifest, meta_payload)
    SELECT slice, entity_type, persistence_id, seq_nr,
           greatest(transaction_timestamp() + position * interval '1 microsecond', not_before),
           event_ser_id, event_ser_manifest, event_payload, writer, '',
           tags::text[], meta_ser_id, meta_ser_manifest, meta_payload
    FROM unnest($1::int[], $2::text[], $3::text[], $4::bigint[], $5::int[], $6::timestamptz[],
                $7::int[], $8::text[], $9::bytea[], $10::text[],
                $11::text[], $12::int[], $13::text[], $14::bytea[])
        AS new (slice, entity_type, persistence_id, seq_nr, position, not_before,
                event_ser_id, event_ser_manifest, event_payload, writer,
                tags, meta_ser_id, meta_ser_manifest, meta_payload)
), expired AS (
    DELETE FROM perennial_command_reply AS old
    USING unnest($17::text[], $18::text[], $21::bigint[])
        AS new (persistence_id, command_id, replaces_to)
    WHERE old.persistence_id = new.persistence_id AND old.command_id = new.command_id
      AND old.seq_nr <= new.replaces_to
    RETURNING 1
), replied AS (
    INSERT INTO perennial_command_reply (
        slice, entity_type, persistence_id, command_id, fingerprint, seq_nr, db_timestamp,
        reply_ser_id, reply_ser_manifest, reply_payload)
    SELECT slice, entity_type, persistence_id, command_id, fingerprint, seq_nr,
           transaction_timestamp(), reply_ser_id, reply_ser_manifest, reply_payload
    FROM (SELECT count(*) FROM expired) AS first,
         unnest($15::int[], $16::text[], $17::text[], $18::text[], $19::bytea[], $20::bigint[],
                $22::int[], $23::text[], $24::bytea[])
        AS new (slice, entity_type, persistence_id, command_id, fingerprint, seq_nr,
                reply_ser_id, reply_ser_manifest, reply_payload)
)
SELECT transaction_timestamp()
