-- As write_batch_with_replies.sql, with changes of reminders; there may be no event at all. No
-- reminder is changed by two rows of the arrays, so that the order of the two changes does not
-- matter. Always answered by one row: whether the fence let it pass, when the transaction began, and
-- the times of the rows that were stored, in their order.
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
), forgotten AS (
    DELETE FROM perennial_reminder AS old
    USING unnest($25::text[], $26::text[], $27::timestamptz[])
        AS given (persistence_id, reminder_key, due)
    WHERE old.persistence_id = given.persistence_id AND old.reminder_key = given.reminder_key
      AND (given.due IS NULL OR old.due = given.due)
      AND (SELECT is_open FROM fence)
), reminded AS (
    INSERT INTO perennial_reminder AS old (
        slice, entity_type, persistence_id, reminder_key, due,
        reminder_ser_id, reminder_ser_manifest, reminder_payload)
    SELECT slice, entity_type, persistence_id, reminder_key, due,
           reminder_ser_id, reminder_ser_manifest, reminder_payload
    FROM unnest($17::int[], $18::text[], $19::text[], $20::text[], $21::timestamptz[],
                $22::int[], $23::text[], $24::bytea[])
        AS new (slice, entity_type, persistence_id, reminder_key, due,
                reminder_ser_id, reminder_ser_manifest, reminder_payload)
    WHERE (SELECT is_open FROM fence)
    ON CONFLICT (persistence_id, reminder_key) DO UPDATE SET
        entity_type = excluded.entity_type,
        due = excluded.due,
        reminder_ser_id = excluded.reminder_ser_id,
        reminder_ser_manifest = excluded.reminder_ser_manifest,
        reminder_payload = excluded.reminder_payload
), expired AS (
    DELETE FROM perennial_command_reply AS old
    USING unnest($30::text[], $31::text[], $34::bigint[])
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
         unnest($28::int[], $29::text[], $30::text[], $31::text[], $32::bytea[], $33::bigint[],
                $35::int[], $36::text[], $37::bytea[])
        AS new (slice, entity_type, persistence_id, command_id, fingerprint, seq_nr,
                reply_ser_id, reply_ser_manifest, reply_payload)
    WHERE (SELECT is_open FROM fence)
)
SELECT is_open, transaction_timestamp(), ARRAY(SELECT db_timestamp FROM stored) FROM fence
