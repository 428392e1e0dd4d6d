-- ?3 is NULL for whichever reminder there is.
DELETE FROM perennial_reminder
WHERE persistence_id = ?1 AND reminder_key = ?2 AND (?3 IS NULL OR due = ?3)
