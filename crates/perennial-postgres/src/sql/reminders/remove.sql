-- Rows that another deletion is at work on are left to it.
WITH gone AS (
    DELETE FROM perennial_reminder WHERE (persistence_id, reminder_key) IN (
        SELECT persistence_id, reminder_key FROM perennial_reminder
        WHERE persistence_id = $1
        LIMIT $2
        FOR UPDATE SKIP LOCKED)
    RETURNING 1
)
SELECT count(*) FROM gone
