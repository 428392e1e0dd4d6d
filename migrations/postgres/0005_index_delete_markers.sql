-- The markers of deletions by id, for perennial_journal_fence. The index holds nothing else, so it
-- is empty where nothing is deleted.
--
-- Making it reads the whole table once, without holding up anybody who writes. It cannot be made in
-- a transaction, and one whose making broke off is left behind as invalid: drop that one first.
CREATE INDEX CONCURRENTLY IF NOT EXISTS perennial_event_journal_marker_idx
ON event_journal(persistence_id, seq_nr) WHERE deleted;
