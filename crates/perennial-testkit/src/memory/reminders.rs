//! The reminders in memory.

use perennial_persistence::{
    BoxFuture, DueReminders, Error, PersistenceId, ReminderChange, ReminderKey, ReminderStore,
    StoredReminder,
};

use super::{Handle, Tables};

impl ReminderStore for Handle {
    fn due<'a>(
        &'a self,
        wanted: &'a DueReminders,
    ) -> BoxFuture<'a, Result<Vec<StoredReminder>, Error>> {
        Box::pin(async move {
            let tables = self.tables()?;
            let rows = tables
                .reminders
                .values()
                .filter(|row| is_wanted(row, wanted));
            let mut found: Vec<&StoredReminder> = rows.collect();
            found.sort_by_key(|row| (row.due, &row.persistence_id, &row.key));
            Ok(found.into_iter().take(wanted.limit).cloned().collect())
        })
    }

    fn remove<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, Error>> {
        Box::pin(async move {
            let mut tables = self.tables()?;
            let keys = tables
                .reminders
                .keys()
                .filter(|(id, _)| id == persistence_id);
            let gone: Vec<(PersistenceId, ReminderKey)> = keys.take(limit).cloned().collect();
            for row in &gone {
                tables.reminders.remove(row);
            }
            Ok(gone.len())
        })
    }
}

fn is_wanted(row: &StoredReminder, wanted: &DueReminders) -> bool {
    let is_after =
        |(id, key): &(PersistenceId, ReminderKey)| (&row.persistence_id, &row.key) > (id, key);
    wanted.slices.contains(row.persistence_id.slice())
        && wanted.entity_types.contains(&row.entity_type)
        && (wanted.from..=wanted.until).contains(&row.due)
        && (row.due > wanted.from || wanted.after.as_ref().is_none_or(is_after))
}

/// Whether the changes can be stored.
pub(super) fn check(
    tables: &Tables,
    id: &PersistenceId,
    changes: &[ReminderChange],
) -> Result<(), Error> {
    for change in changes {
        if let ReminderChange::Set(new) = change {
            tables.check_serializer(id, new.payload().serializer_id)?;
        }
    }
    Ok(())
}

/// Makes changes that were checked.
pub(super) fn change(tables: &mut Tables, id: &PersistenceId, changes: &[ReminderChange]) {
    for change in changes {
        let place = (id.clone(), change.key().clone());
        match change {
            ReminderChange::Set(new) => {
                let stored = StoredReminder {
                    persistence_id: id.clone(),
                    entity_type: new.entity_type().clone(),
                    key: new.key().clone(),
                    due: new.due(),
                    payload: new.payload().clone(),
                };
                tables.reminders.insert(place, stored);
            }
            ReminderChange::Forget { due, .. } => {
                let stored = tables.reminders.get(&place);
                if stored.is_some_and(|stored| due.is_none_or(|due| stored.due == due)) {
                    tables.reminders.remove(&place);
                }
            }
        }
    }
}
