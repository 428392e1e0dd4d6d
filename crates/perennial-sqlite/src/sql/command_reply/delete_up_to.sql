DELETE FROM perennial_command_reply
WHERE rowid IN (
  SELECT rowid FROM perennial_command_reply
  WHERE persistence_id = ?1 AND seq_nr <= ?2
  LIMIT ?3
)
