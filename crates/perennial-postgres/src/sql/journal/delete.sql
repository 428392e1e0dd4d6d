-- Deletes and leaves the marker in one statement, so that the numbering is never lost. The marker
-- stands at the number that was asked for, or at the highest one if that was the largest possible.
-- It is not earlier than the events that it stands for, as the next event is timed after it.
-- The insert reads what the delete returns and so runs after it.
WITH gone AS (
    DELETE FROM event_journal WHERE persistence_id = $3 AND seq_nr <= $4
    RETURNING seq_nr, db_timestamp
)
INSERT INTO event_journal (
    slice, entity_type, persistence_id, seq_nr, db_timestamp,
    event_ser_id, event_ser_manifest, event_payload, deleted, writer, adapter_manifest)
SELECT $1, $2, $3,
       CASE WHEN $4 = 9223372036854775807 THEN coalesce(max(seq_nr), 0) ELSE $4 END,
       greatest(transaction_timestamp(), max(db_timestamp)), 0, '', '', true, '', ''
FROM gone
