-- The next state of an id: one round trip and one row. $7 says that the row keeps its tags, as a
-- marker does. A row with another revision is left alone and not answered.
UPDATE durable_state SET
    revision = $3,
    db_timestamp = greatest(transaction_timestamp(), db_timestamp + interval '1 microsecond'),
    state_ser_id = $4,
    state_ser_manifest = $5,
    state_payload = $6,
    tags = CASE WHEN $7::boolean THEN tags ELSE $8::text[] END
WHERE persistence_id = $1 AND revision = $2
RETURNING db_timestamp
