-- Many states in one transaction, sorted by id: those whose rows change, those that get a row, and
-- those whose rows go. Any of the three may be empty. As in update.sql and insert.sql, a row that
-- is not as its writer expects is left alone and not answered.
WITH changed AS (
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
), added AS (
    INSERT INTO durable_state (
        slice, entity_type, persistence_id, revision, db_timestamp,
        state_ser_id, state_ser_manifest, state_payload, tags)
    SELECT slice, entity_type, persistence_id, revision, transaction_timestamp() + later_by,
           state_ser_id, state_ser_manifest, state_payload, tags::text[]
    FROM (SELECT unnest($10::int[]) AS slice,
                 unnest($11::text[]) AS entity_type,
                 unnest($12::text[]) AS persistence_id,
                 unnest($13::bigint[]) AS revision,
                 unnest($14::interval[]) AS later_by,
                 unnest($15::int[]) AS state_ser_id,
                 unnest($16::text[]) AS state_ser_manifest,
                 unnest($17::bytea[]) AS state_payload,
                 unnest($18::text[]) AS tags) AS given
    WHERE NOT EXISTS (SELECT FROM durable_state AS stored
                      WHERE stored.persistence_id = given.persistence_id)
    ON CONFLICT DO NOTHING
    RETURNING persistence_id, db_timestamp
), gone AS (
    DELETE FROM durable_state AS stored
    USING (SELECT unnest($19::text[]) AS persistence_id,
                  unnest($20::bigint[]) AS expected) AS given
    WHERE stored.persistence_id = given.persistence_id AND stored.revision = given.expected
    RETURNING stored.persistence_id, transaction_timestamp() AS db_timestamp
)
SELECT persistence_id, db_timestamp FROM changed
UNION ALL SELECT persistence_id, db_timestamp FROM added
UNION ALL SELECT persistence_id, db_timestamp FROM gone
