-- The times of the events before writes whose writers do not know them.
SELECT new.ordinality, stored.db_timestamp
FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS new (persistence_id, seq_nr, ordinality)
JOIN event_journal AS stored USING (persistence_id, seq_nr)
