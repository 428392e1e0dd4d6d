-- Which of the keys of a refused batch are taken, and whether by the very writer that asks.
SELECT new.ordinality, stored.writer = new.writer AND NOT stored.deleted, stored.db_timestamp
FROM unnest($1::text[], $2::bigint[], $3::text[])
    WITH ORDINALITY AS new (persistence_id, seq_nr, writer, ordinality)
JOIN event_journal AS stored USING (persistence_id, seq_nr)
