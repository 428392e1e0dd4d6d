-- Removes the lowest rows of an id up to a number, markers included, and leaves nothing in their
-- place. A page of them at a time, so that no transaction gets long.
DELETE FROM event_journal
WHERE persistence_id = $1
  AND seq_nr <= (
    SELECT max(seq_nr) FROM (
        SELECT seq_nr FROM event_journal
        WHERE persistence_id = $1 AND seq_nr <= $2
        ORDER BY seq_nr
        LIMIT $3) AS lowest)
RETURNING seq_nr
