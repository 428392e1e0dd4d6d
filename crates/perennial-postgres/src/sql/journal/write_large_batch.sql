-- As write_batch.sql, for batches that are large enough that it pays: the entities ($11, with
-- their first numbers, $12) are looked up in the index of delete markers, which is small, and after
-- the rows are stored, by a function that sees what was committed meanwhile. So a marker is enough
-- of a fence, and there is no deletion that it misses.
WITH stored AS (
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
    RETURNING 1
)
SELECT perennial_journal_fence($11, $12, done.rows), done.rows
FROM (SELECT count(*) AS rows FROM stored) AS done
