-- Which commands of a refused batch have a reply that is not to be replaced.
SELECT new.ordinality
FROM unnest($1::text[], $2::text[], $3::bigint[])
    WITH ORDINALITY AS new (persistence_id, command_id, replaces_to, ordinality)
JOIN perennial_command_reply AS stored USING (persistence_id, command_id)
WHERE stored.seq_nr > new.replaces_to
