-- The latest event of the last (slice, entity_type) before the given pair, by one seek in
-- event_journal_slice_idx. Asked again with its own answer, it steps through all pairs there are.
--
-- The smallest timestamp is part of the bound because SQLite seeks to "at most" a row value and
-- filters the equal rows afterwards: without it, a step would walk over every event of the pair.
SELECT slice, entity_type, db_timestamp
FROM event_journal
WHERE (slice, entity_type, db_timestamp) < (?1, ?2, -9223372036854775808)
  AND typeof(db_timestamp) = 'integer'
ORDER BY slice DESC, entity_type DESC, db_timestamp DESC
LIMIT 1
