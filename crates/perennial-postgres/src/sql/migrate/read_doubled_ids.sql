SELECT persistence_id FROM durable_state
GROUP BY persistence_id HAVING count(*) > 1
ORDER BY persistence_id
LIMIT $1
