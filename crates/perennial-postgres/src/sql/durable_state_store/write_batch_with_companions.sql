-- As write_batch.sql, with events that tell of the changes and with the replies of commands that
-- carry an id. Both are stored for those states only that are: they are joined with the rows that
-- the changes and additions return, and so run after these.
--
-- $5 says by how many microseconds the time of a row grows at least: every write that it stands for
-- has a time for its events, $24 microseconds before that of the row.
--
-- No look at higher numbers in the journal is needed, as it is for events alone: the row's revision
-- is the fence. A number or a command that is taken is a duplicate key, which undoes everything.
WITH changed AS (
    UPDATE durable_state AS stored SET
        revision = given.revision,
        db_timestamp = greatest(
            transaction_timestamp() + given.position * interval '1 microsecond',
            stored.db_timestamp + given.steps * interval '1 microsecond'),
        state_ser_id = given.state_ser_id,
        state_ser_manifest = given.state_ser_manifest,
        state_payload = given.state_payload,
        tags = CASE WHEN given.keeps_tags THEN stored.tags ELSE given.tags::text[] END
    FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::int[], $5::int[], $6::int[],
                $7::text[], $8::bytea[], $9::boolean[], $10::text[])
        AS given (persistence_id, expected, revision, position, steps, state_ser_id,
                  state_ser_manifest, state_payload, keeps_tags, tags)
    WHERE stored.persistence_id = given.persistence_id AND stored.revision = given.expected
    RETURNING stored.persistence_id, stored.db_timestamp
), added AS (
    INSERT INTO durable_state (
        slice, entity_type, persistence_id, revision, db_timestamp,
        state_ser_id, state_ser_manifest, state_payload, tags)
    SELECT slice, entity_type, persistence_id, revision,
           transaction_timestamp() + position * interval '1 microsecond',
           state_ser_id, state_ser_manifest, state_payload, tags::text[]
    FROM unnest($11::int[], $12::text[], $13::text[], $14::bigint[], $15::int[], $16::int[],
                $17::text[], $18::bytea[], $19::text[])
        AS given (slice, entity_type, persistence_id, revision, position, state_ser_id,
                  state_ser_manifest, state_payload, tags)
    WHERE NOT EXISTS (SELECT FROM durable_state AS stored
                      WHERE stored.persistence_id = given.persistence_id)
    ON CONFLICT DO NOTHING
    RETURNING persistence_id, db_timestamp
), written AS (
    SELECT persistence_id, db_timestamp FROM changed
    UNION ALL SELECT persistence_id, db_timestamp FROM added
), told AS (
    INSERT INTO event_journal (
        slice, entity_type, persistence_id, seq_nr,
        db_timestamp,
        event_ser_id, event_ser_manifest, event_payload, writer, adapter_manifest,
        tags, meta_ser_id, meta_ser_manifest, meta_payload)
    SELECT new.slice, new.entity_type, new.persistence_id, new.seq_nr,
           written.db_timestamp - new.steps_before * interval '1 microsecond',
           new.event_ser_id, new.event_ser_manifest, new.event_payload, new.writer, '',
           new.tags::text[], new.meta_ser_id, new.meta_ser_manifest, new.meta_payload
    FROM unnest($20::int[], $21::text[], $22::text[], $23::bigint[], $24::int[], $25::int[],
                $26::text[], $27::bytea[], $28::text[], $29::text[], $30::int[], $31::text[],
                $32::bytea[])
        AS new (slice, entity_type, persistence_id, seq_nr, steps_before, event_ser_id,
                event_ser_manifest, event_payload, writer, tags, meta_ser_id, meta_ser_manifest,
                meta_payload)
    JOIN written ON written.persistence_id = new.persistence_id
), expired AS (
    DELETE FROM perennial_command_reply AS old
    USING unnest($35::text[], $36::text[], $39::bigint[])
        AS new (persistence_id, command_id, replaces_to), written
    WHERE old.persistence_id = new.persistence_id AND old.command_id = new.command_id
      AND old.seq_nr <= new.replaces_to AND written.persistence_id = new.persistence_id
    RETURNING 1
), replied AS (
    INSERT INTO perennial_command_reply (
        slice, entity_type, persistence_id, command_id, fingerprint, seq_nr, db_timestamp,
        reply_ser_id, reply_ser_manifest, reply_payload)
    SELECT new.slice, new.entity_type, new.persistence_id, new.command_id, new.fingerprint,
           new.seq_nr, transaction_timestamp(), new.reply_ser_id, new.reply_ser_manifest,
           new.reply_payload
    -- What has left the window makes room first.
    FROM (SELECT count(*) FROM expired) AS first,
         unnest($33::int[], $34::text[], $35::text[], $36::text[], $37::bytea[], $38::bigint[],
                $40::int[], $41::text[], $42::bytea[])
        AS new (slice, entity_type, persistence_id, command_id, fingerprint, seq_nr,
                reply_ser_id, reply_ser_manifest, reply_payload)
    JOIN written ON written.persistence_id = new.persistence_id
)
SELECT persistence_id, db_timestamp FROM written
