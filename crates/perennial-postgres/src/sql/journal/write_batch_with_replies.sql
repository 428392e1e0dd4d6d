-- As write_batch_with_metadata.sql, with the replies of commands that carry an id. What has left
-- the window makes room first: the insert of the replies reads what that delete returns and so
-- runs after it.
WITH fence AS MATERIALIZED (
    SELECT NOT EXISTS (
        SELECT FROM unnest($15::text[], $16::bigint[]) AS entity (persistence_id, first),
            LATERAL (SELECT FROM event_journal AS stored
                     WHERE stored.persistence_id = entity.persistence_id
                       AND stored.seq_nr >= entity.first
                     LIMIT 1) AS beyond
    ) AS is_open
), stored AS (
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
    WHERE (SELECT is_open FROM fence)
), expired AS (
    DELETE FROM perennial_command_reply AS old
    USING unnest($19::text[], $20::text[], $23::bigint[])
        AS new (persistence_id, command_id, replaces_to)
    WHERE old.persistence_id = new.persistence_id AND old.command_id = new.command_id
      AND old.seq_nr <= new.replaces_to AND (SELECT is_open FROM fence)
    RETURNING 1
), replied AS (
    INSERT INTO perennial_command_reply (
        slice, entity_type, persistence_id, command_id, fingerprint, seq_nr, db_timestamp,
        reply_ser_id, reply_ser_manifest, reply_payload)
    SELECT slice, entity_type, persistence_id, command_id, fingerprint, seq_nr,
           transaction_timestamp(), reply_ser_id, reply_ser_manifest, reply_payload
    FROM (SELECT count(*) FROM expired) AS first,
         unnest($17::int[], $18::text[], $19::text[], $20::text[], $21::bytea[], $22::bigint[],
                $24::int[], $25::text[], $26::bytea[])
        AS new (slice, entity_type, persistence_id, command_id, fingerprint, seq_nr,
                reply_ser_id, reply_ser_manifest, reply_payload)
    WHERE (SELECT is_open FROM fence)
)
SELECT transaction_timestamp() FROM fence WHERE is_open
