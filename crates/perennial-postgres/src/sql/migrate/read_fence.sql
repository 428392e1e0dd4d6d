-- Whether the fence of large batches is there: its function, and its index, NULL if there is none and
-- false if the making of it broke off.
SELECT to_regprocedure('perennial_journal_fence(text[], bigint[], bigint)') IS NOT NULL,
       (SELECT i.indisvalid FROM pg_index AS i
        WHERE i.indexrelid = to_regclass('perennial_event_journal_marker_idx')
          AND i.indrelid = to_regclass('event_journal'))
