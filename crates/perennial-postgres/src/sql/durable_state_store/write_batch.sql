-- Many states in one transaction, sorted by id: those whose rows change, those that get a row, and
-- those whose rows go. Any of the three may be empty. As in update.sql and insert.sql, a row that
-- is not as its writer expects is left alone and not answered.
WITH changed AS (
    UPDATE durable_state AS stored SET
        revision = given.revision,
        db_timestamp = greatest(
            transaction_timestamp() + given.position * interval '1 microsecond',
            stored.db_timestamp + interval '1 microsecond'),
        state_ser_id = given.state_ser_id,
        state_ser_manifest = given.state_ser_manifest,
        state_payload = given.state_payload,
        tags = CASE WHEN given.keeps_tags THEN stored.tags ELSE given.tags::text[] END
    FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::int[], $5::int[], $6::text[],
                $7::bytea[], $8::boolean[], $9::text[])
        AS given (persistence_id, expected, revision, position, state_ser_id, state_ser_manifest,
                  state_payload, keeps_tags, tags)
    WHERE stored.persistence_id = given.persistence_id AND stored.revision = given.expected
    RETURNING stored.persistence_id, stored.db_timestamp
), added AS (
    INSERT INTO durable_state (
        slice, entity_type, persistence_id, revision, db_timestamp,
        state_ser_id, state_ser_manifest, state_payload, tags)
    SELECT slice, entity_type, persistence_id, revision,
           transaction_timestamp() + position * interval '1 microsecond',
           state_ser_id, state_ser_manifest, state_payload, tags::text[]
    FROM unnest($10::int[], $11::text[], $12::text[], $13::bigint[], $14::int[], $15::int[],
                $16::text[], $17::bytea[], $18::text[])
        AS given (slice, entity_type, persistence_id, revision, position, state_ser_id,
                  state_ser_manifest, state_payload, tags)
    WHERE NOT EXISTS (SELECT FROM durable_state AS stored
                      WHERE stored.persistence_id = given.persistence_id)
    ON CONFLICT DO NOTHING
    RETURNING persistence_id, db_timestamp
), gone AS (
    DELETE FROM durable_state AS stored
    USING unnest($19::text[], $20::bigint[]) AS given (persistence_id, expected)
    WHERE stored.persistence_id = given.persistence_id AND stored.revision = given.expected
    RETURNING stored.persistence_id, transaction_timestamp() AS db_timestamp
)
SELECT persistence_id, db_timestamp FROM changed
UNION ALL SELECT persistence_id, db_timestamp FROM added
UNION ALL SELECT persistence_id, db_timestamp FROM gone
