DELETE FROM perennial_command_reply
WHERE rowid IN (
  SELECT rowid FROM perennial_command_reply
  WHERE entity_type = ?1 AND db_timestamp < ?2
  LIMIT ?3
)
