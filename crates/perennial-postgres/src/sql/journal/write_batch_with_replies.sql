-- As write_batch_with_metadata.sql, with the replies of commands that carry an id. What has left
-- the window makes room first: the insert of the replies reads what that delete returns and so
-- runs after it.
WITH fence AS MATERIALIZED (
    SELECT NOT EXISTS (
        SELECT FROM (SELECT unnest($15::text[]) AS persistence_id,
                            unnest($16::bigint[]) AS first) AS entity,
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
           greatest(transaction_timestamp() + later_by, not_before),
           event_ser_id, event_ser_manifest, event_payload, writer, '',
           tags::text[], meta_ser_id, meta_ser_manifest, meta_payload
    FROM (SELECT unnest($1::int[]) AS slice,
                 unnest($2::text[]) AS entity_type,
                 unnest($3::text[]) AS persistence_id,
                 unnest($4::bigint[]) AS seq_nr,
                 unnest($5::interval[]) AS later_by,
                 unnest($6::timestamptz[]) AS not_before,
                 unnest($7::int[]) AS event_ser_id,
                 unnest($8::text[]) AS event_ser_manifest,
                 unnest($9::bytea[]) AS event_payload,
                 unnest($10::text[]) AS writer,
                 unnest($11::text[]) AS tags,
                 unnest($12::int[]) AS meta_ser_id,
                 unnest($13::text[]) AS meta_ser_manifest,
                 unnest($14::bytea[]) AS meta_payload) AS new
    WHERE (SELECT is_open FROM fence)
    RETURNING db_timestamp
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
SELECT db_timestamp FROM stored
