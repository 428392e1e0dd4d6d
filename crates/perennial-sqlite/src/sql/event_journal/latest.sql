-- By a scan, for tables without event_journal_slice_idx.
SELECT max(db_timestamp) FROM event_journal
WHERE typeof(db_timestamp) = 'integer'
