DELETE FROM snapshot
WHERE persistence_id = $1
  AND seq_nr BETWEEN $2 AND $3
  AND write_timestamp BETWEEN $4 AND $5
