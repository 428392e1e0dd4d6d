-- The next states of many ids in one transaction, sorted by id: by far the most frequent batch. As in
-- update.sql, a row that is not as its writer expects is left alone and not answered.
UPDATE durable_state AS stored SET
    revision = given.revision,
    db_timestamp = greatest(transaction_timestamp() + given.later_by,
                            stored.db_timestamp + interval '1 microsecond'),
    state_ser_id = given.state_ser_id,
    state_ser_manifest = given.state_ser_manifest,
    state_payload = given.state_payload,
    tags = CASE WHEN given.keeps_tags THEN stored.tags ELSE given.tags::text[] END
FROM (SELECT unnest($1::text[]) AS persistence_id,
             unnest($2::bigint[]) AS expected,
             unnest($3::bigint[]) AS revision,
             unnest($4::interval[]) AS later_by,
             unnest($5::int[]) AS state_ser_id,
             unnest($6::text[]) AS state_ser_manifest,
             unnest($7::bytea[]) AS state_payload,
             unnest($8::boolean[]) AS keeps_tags,
             unnest($9::text[]) AS tags) AS given
WHERE stored.persistence_id = given.persistence_id AND stored.revision = given.expected
RETURNING stored.persistence_id, stored.db_timestamp
