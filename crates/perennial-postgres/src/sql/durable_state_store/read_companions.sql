-- What stands in the places of events and replies that go with states: a number of the journal, or
-- a command's id. The columns of a reply are those of command_replies/load.sql.
SELECT given.ordinality, event.writer, event.deleted,
       reply.command_id, reply.fingerprint, reply.seq_nr, reply.db_timestamp,
       reply.reply_ser_id, reply.reply_ser_manifest, reply.reply_payload
FROM unnest($1::text[], $2::bigint[], $3::text[])
    WITH ORDINALITY AS given (persistence_id, seq_nr, command_id, ordinality)
LEFT JOIN event_journal AS event
    ON event.persistence_id = given.persistence_id AND event.seq_nr = given.seq_nr
LEFT JOIN perennial_command_reply AS reply
    ON reply.persistence_id = given.persistence_id AND reply.command_id = given.command_id
