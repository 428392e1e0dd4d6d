SELECT max(seq_nr) FROM event_journal WHERE persistence_id = $1 AND seq_nr >= $2
