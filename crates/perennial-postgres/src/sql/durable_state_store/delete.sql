DELETE FROM durable_state
WHERE persistence_id = $1 AND revision = $2
RETURNING transaction_timestamp()
