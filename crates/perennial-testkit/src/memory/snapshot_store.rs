//! The snapshot store in memory.

use perennial_persistence::{
    BoxFuture, Error, PersistenceId, Snapshot, SnapshotCriteria, SnapshotStore, Timestamp,
};

use super::Handle;

impl SnapshotStore for Handle {
    fn load<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        criteria: SnapshotCriteria,
    ) -> BoxFuture<'a, Result<Option<Snapshot>, Error>> {
        Box::pin(async move {
            let tables = self.tables()?;
            let snapshot = tables.snapshots.get(persistence_id);
            Ok(snapshot.filter(|found| is_meant(found, criteria)).cloned())
        })
    }

    fn save<'a>(&'a self, snapshot: &'a Snapshot) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let mut tables = self.tables()?;
            let id = &snapshot.persistence_id;
            tables.check_serializer(id, snapshot.payload.serializer_id)?;
            let stored = tables.snapshots.get(id);
            if stored.is_some_and(|stored| stored.seq_nr > snapshot.seq_nr) {
                return Ok(());
            }
            let millis = snapshot.write_timestamp.as_millisecond();
            let snapshot = Snapshot {
                write_timestamp: Timestamp::from_millisecond(millis)
                    .expect("it was a timestamp before it was cut"),
                ..snapshot.clone()
            };
            tables.snapshots.insert(id.clone(), snapshot);
            Ok(())
        })
    }

    fn delete<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        criteria: SnapshotCriteria,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let mut tables = self.tables()?;
            let stored = tables.snapshots.get(persistence_id);
            if stored.is_some_and(|stored| is_meant(stored, criteria)) {
                tables.snapshots.remove(persistence_id);
            }
            Ok(())
        })
    }
}

fn is_meant(snapshot: &Snapshot, criteria: SnapshotCriteria) -> bool {
    criteria.matches(snapshot.seq_nr, snapshot.write_timestamp)
}
