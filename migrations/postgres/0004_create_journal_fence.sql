-- Keeps stale writers out of the place of deleted events: gives the transaction's time unless one of
-- the ids has a delete marker at its number or above it, and fails as if that number were taken.
--
-- A statement sees what was committed before it began. A function that is volatile looks at what
-- is committed when it is called; called after the rows of a statement are stored, it sees the
-- marker of every deletion that could have made room for one of them. `stored` is how many they
-- are, and there so that they are stored first.
CREATE OR REPLACE FUNCTION perennial_journal_fence(ids TEXT[], numbers BIGINT[], stored BIGINT)
RETURNS timestamp with time zone
LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
IF EXISTS (
    SELECT FROM (SELECT unnest(ids) AS persistence_id, unnest(numbers) AS seq_nr) AS new,
        LATERAL (SELECT FROM event_journal AS marker
                 WHERE marker.persistence_id = new.persistence_id
                   AND marker.seq_nr >= new.seq_nr
                   AND marker.deleted
                 LIMIT 1) AS beyond)
THEN
    RAISE EXCEPTION 'an id has a delete marker at its number or above it'
        USING ERRCODE = 'unique_violation';
END IF;
RETURN transaction_timestamp();
END
$$;
