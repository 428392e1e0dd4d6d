-- Many events without tags and metadata, sorted by id and number. All times follow from the
-- transaction's. The arrays are taken apart in the select list: in FROM each of them would first be
-- written to a store of rows of its own.
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
--
-- To look for delete markers alone, in a small index of their own, would be cheaper and is not
-- enough here: of a deletion that commits while the statement runs it sees neither the events nor
-- the marker. write_large_batch.sql does so by a look of its own at the end.
--
-- A row that a trigger leaves out is not answered.
INSERT INTO event_journal (
    slice, entity_type, persistence_id, seq_nr,
    db_timestamp,
    event_ser_id, event_ser_manifest, event_payload, writer, adapter_manifest)
SELECT slice, entity_type, persistence_id, seq_nr,
       greatest(transaction_timestamp() + later_by, not_before),
       event_ser_id, event_ser_manifest, event_payload, writer, ''
FROM (SELECT unnest($1::int[]) AS slice,
             unnest($2::text[]) AS entity_type,
             unnest($3::text[]) AS persistence_id,
             unnest($4::bigint[]) AS seq_nr,
             unnest($5::interval[]) AS later_by,
             unnest($6::timestamptz[]) AS not_before,
             unnest($7::int[]) AS event_ser_id,
             unnest($8::text[]) AS event_ser_manifest,
             unnest($9::bytea[]) AS event_payload,
             unnest($10::text[]) AS writer) AS new
WHERE NOT EXISTS (
    SELECT FROM (SELECT unnest($11::text[]) AS persistence_id,
                        unnest($12::bigint[]) AS first) AS entity,
        LATERAL (SELECT FROM event_journal AS stored
                 WHERE stored.persistence_id = entity.persistence_id
                   AND stored.seq_nr >= entity.first
                 LIMIT 1) AS beyond)
RETURNING db_timestamp
