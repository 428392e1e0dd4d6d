-- Replies to commands that carry an id, beside the tables that are shared with other programs.
-- They are written with their events and expire. The key keeps a second writer from handling a
-- command again.
CREATE TABLE IF NOT EXISTS perennial_command_reply(
slice INT NOT NULL,
entity_type VARCHAR(255) NOT NULL,
persistence_id VARCHAR(255) NOT NULL,
command_id VARCHAR(255) NOT NULL,
-- a hash of the request
fingerprint BYTEA NOT NULL,
-- of the command's last event
seq_nr BIGINT NOT NULL,
db_timestamp timestamp with time zone NOT NULL,
-- serializer id 0 and no bytes: the command is answered without a reply
reply_ser_id INTEGER NOT NULL,
reply_ser_manifest VARCHAR(255) NOT NULL,
reply_payload BYTEA NOT NULL,
PRIMARY KEY(persistence_id, command_id)
);
-- for the deletion of what is too old
CREATE INDEX IF NOT EXISTS perennial_command_reply_age_idx ON perennial_command_reply(entity_type, db_timestamp);
