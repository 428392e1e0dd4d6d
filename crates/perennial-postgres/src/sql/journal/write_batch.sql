-- Many events without tags and metadata, sorted by id and number. All times follow from the
-- transaction's, so that no row has to be sent back.
--
-- The primary key refuses a number that is there. It cannot refuse one whose event was deleted, to
-- which a stale writer may come back; so every entity ($11, with its first number, $12) is looked
-- up once, and if one of them has that number or a higher one, nothing is stored or answered. The
-- LIMIT keeps the planner at one probe of the primary key's index for each entity.
--
-- The look-up sees what was committed before the statement began. That is enough:
-- - Rows that another transaction inserts meanwhile: the primary key waits for it, and refuses
--   the same numbers if it commits.
-- - Rows that another transaction deletes meanwhile: until it commits they are seen, and when it
--   commits its marker takes their place at the same instant.
-- - Left over is a statement that began before the newer events were stored, and runs until they
--   are stored, covered by a snapshot and deleted; statement_timeout bounds that.
WITH fence AS MATERIALIZED (
    SELECT NOT EXISTS (
        SELECT FROM unnest($11::text[], $12::bigint[]) AS entity (persistence_id, first),
            LATERAL (SELECT FROM event_journal AS stored
                     WHERE stored.persistence_id = entity.persistence_id
                       AND stored.seq_nr >= entity.first
                     LIMIT 1) AS beyond
    ) AS is_open
), stored AS (
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
    WHERE (SELECT is_open FROM fence)
)
SELECT transaction_timestamp() FROM fence WHERE is_open
