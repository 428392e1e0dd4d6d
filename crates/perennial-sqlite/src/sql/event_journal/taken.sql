SELECT seq_nr, writer, db_timestamp, deleted
FROM event_journal
WHERE persistence_id = ?1 AND seq_nr BETWEEN ?2 AND ?3
ORDER BY seq_nr
