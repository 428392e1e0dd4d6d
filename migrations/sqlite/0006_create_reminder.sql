-- Reminders: commands that an entity is to get at a time, beside the tables that are shared with
-- other programs. They are written and deleted with its events.

CREATE TABLE IF NOT EXISTS perennial_reminder (
  slice INTEGER NOT NULL,
  -- As the entity's type is registered; ids need not begin with it.
  entity_type TEXT NOT NULL,
  persistence_id TEXT NOT NULL,
  reminder_key TEXT NOT NULL,
  due INTEGER NOT NULL,
  -- The command.
  reminder_ser_id INTEGER NOT NULL,
  reminder_ser_manifest TEXT NOT NULL,
  reminder_payload BLOB NOT NULL,
  PRIMARY KEY (persistence_id, reminder_key)
);

-- The order in which they are read.
CREATE INDEX IF NOT EXISTS perennial_reminder_due_idx
  ON perennial_reminder (due, persistence_id, reminder_key);
