-- Replies to commands that carry an id, beside the tables that are shared with other programs.
-- They are written with their events and expire. The key keeps a second writer from handling a
-- command again.

CREATE TABLE IF NOT EXISTS perennial_command_reply (
  slice INTEGER NOT NULL,
  entity_type TEXT NOT NULL,
  persistence_id TEXT NOT NULL,
  command_id TEXT NOT NULL,
  -- A hash of the request.
  fingerprint BLOB NOT NULL,
  -- Of the command's last event.
  seq_nr INTEGER NOT NULL,
  db_timestamp INTEGER NOT NULL,
  -- Serializer id 0 and no bytes: the command is answered without a reply.
  reply_ser_id INTEGER NOT NULL,
  reply_ser_manifest TEXT NOT NULL,
  reply_payload BLOB NOT NULL,
  PRIMARY KEY (persistence_id, command_id)
);

-- For the deletion of what is too old.
CREATE INDEX IF NOT EXISTS perennial_command_reply_age_idx
  ON perennial_command_reply (entity_type, db_timestamp);
