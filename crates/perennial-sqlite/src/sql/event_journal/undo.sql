-- Takes back the rows that one write inserted in the running transaction.
DELETE FROM event_journal
WHERE persistence_id = ?1 AND seq_nr >= ?2 AND seq_nr < ?3
