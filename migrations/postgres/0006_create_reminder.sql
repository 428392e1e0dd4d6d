-- Reminders: commands that an entity is to get at a time, beside the tables that are shared with
-- other programs. They are written and deleted with its events.
CREATE TABLE IF NOT EXISTS perennial_reminder(
slice INT NOT NULL,
-- as the entity's type is registered; ids need not begin with it
entity_type VARCHAR(255) NOT NULL,
persistence_id VARCHAR(255) NOT NULL,
reminder_key VARCHAR(255) NOT NULL,
due timestamp with time zone NOT NULL,
-- the command
reminder_ser_id INTEGER NOT NULL,
reminder_ser_manifest VARCHAR(255) NOT NULL,
reminder_payload BYTEA NOT NULL,
PRIMARY KEY(persistence_id, reminder_key)
);
-- the order in which they are read; that of bytes, whatever the database's own is
CREATE INDEX IF NOT EXISTS perennial_reminder_due_idx
ON perennial_reminder(due, persistence_id COLLATE "C", reminder_key COLLATE "C");
