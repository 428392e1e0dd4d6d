-- Makes room for a command that is new again.
DELETE FROM perennial_command_reply
WHERE persistence_id = ?1 AND command_id = ?2 AND seq_nr <= ?3
