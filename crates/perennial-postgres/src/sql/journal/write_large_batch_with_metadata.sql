-- As write_large_batch.sql, with tags (one array literal per event) and metadata.
WITH stored AS (
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
    RETURNING 1
)
SELECT perennial_journal_fence($15, $16, done.rows), done.rows
FROM (SELECT count(*) AS rows FROM stored) AS done
