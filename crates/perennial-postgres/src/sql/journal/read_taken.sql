-- What stands in the way of the writes of a refused batch, one row for each that has something at
-- or above its first number: how many rows with its numbers are its own, and when those were
-- stored; the lowest that is another writer's event; the highest of all.
SELECT new.ordinality, found.own, found.db_timestamp, found.others, beyond.highest
FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[])
        WITH ORDINALITY AS new (persistence_id, first, last, writer, ordinality),
    LATERAL (SELECT stored.seq_nr AS highest FROM event_journal AS stored
             WHERE stored.persistence_id = new.persistence_id AND stored.seq_nr >= new.first
             ORDER BY stored.seq_nr DESC
             LIMIT 1) AS beyond,
    LATERAL (SELECT count(*) FILTER (WHERE stored.writer = new.writer) AS own,
                    min(stored.db_timestamp) FILTER (WHERE stored.writer = new.writer)
                        AS db_timestamp,
                    min(stored.seq_nr) FILTER (WHERE stored.writer <> new.writer) AS others
             FROM event_journal AS stored
             WHERE stored.persistence_id = new.persistence_id
               AND stored.seq_nr BETWEEN new.first AND new.last
               AND NOT stored.deleted) AS found
