-- The first state of an id. Asks by itself whether there is a row: the unique index that would
-- refuse a second one is missing where two rows of old stand in its way. That index in turn sees
-- rows that are just being stored by others. A row that is there already is not answered.
INSERT INTO durable_state (
    slice, entity_type, persistence_id, revision, db_timestamp,
    state_ser_id, state_ser_manifest, state_payload, tags)
SELECT $1::int, $2::text, $3::text, $4::bigint, transaction_timestamp(),
       $5::int, $6::text, $7::bytea, $8::text[]
WHERE NOT EXISTS (SELECT FROM durable_state WHERE persistence_id = $3::text)
ON CONFLICT DO NOTHING
RETURNING db_timestamp
