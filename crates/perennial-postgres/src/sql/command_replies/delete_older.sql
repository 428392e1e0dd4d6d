-- Rows that another deletion is at work on are left to it.
WITH gone AS (
    DELETE FROM perennial_command_reply WHERE (persistence_id, command_id) IN (
        SELECT persistence_id, command_id FROM perennial_command_reply
        WHERE entity_type = $1 AND db_timestamp < $2
        LIMIT $3
        FOR UPDATE SKIP LOCKED)
    RETURNING 1
)
SELECT count(*) FROM gone
