-- What stands in place of states that were not stored. Their content is of interest only where an
-- earlier attempt may have stored it.
SELECT stored.revision, stored.db_timestamp, stored.state_ser_id, stored.state_ser_manifest,
       CASE WHEN given.maybe_stored THEN stored.state_payload END, stored.tags,
       given.ordinality, transaction_timestamp()
FROM unnest($1::text[], $2::boolean[])
    WITH ORDINALITY AS given (persistence_id, maybe_stored, ordinality)
LEFT JOIN durable_state AS stored ON stored.persistence_id = given.persistence_id
