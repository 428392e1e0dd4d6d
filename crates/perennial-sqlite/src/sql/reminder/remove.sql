DELETE FROM perennial_reminder WHERE rowid IN (
  SELECT rowid FROM perennial_reminder WHERE persistence_id = ?1 LIMIT ?2)
