-- Ids with more than one row; the total comes with each, as only the first few are listed.
SELECT persistence_id, count(*) OVER ()
FROM durable_state
GROUP BY persistence_id
HAVING count(*) > 1
ORDER BY persistence_id
LIMIT ?1
