DELETE FROM durable_state WHERE persistence_id = $1
