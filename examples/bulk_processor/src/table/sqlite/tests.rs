use std::path::Path;

use flight_table::database::Place;
use perennial::ConfigSource;

use crate::table::Table;

use super::*;

struct Test {
    folder: tempfile::TempDir,
}

fn row(distance: i64) -> Row {
    Row {
        tailnum: Some("N1".into()),
        origin: "EWR".into(),
        dest: "IAH".into(),
        distance,
    }
}

fn good(line: i64) -> Item {
    let content = Ok(row(1));
    Item { line, content }
}

fn bad(line: i64) -> Item {
    let content = Ok(row(0));
    Item { line, content }
}

fn malformed(line: i64) -> Item {
    let content = Err("malformed".into());
    Item { line, content }
}

impl Test {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("bulk.sqlite")
    }

    fn place(&self, path: &Path) -> Place {
        let path = path.display().to_string();
        let source = ConfigSource::empty().set("persistence.sqlite.busy-timeout", "50ms");
        let configured = Place::configured(source.expect("a key"), &path, None);
        configured.expect("a path").1
    }

    async fn prepare(&self, begin: Begin) -> Result<Table, AskFailure> {
        Table::prepare(&self.place(&self.path()), begin).await
    }

    async fn table(&self, begin: Begin) -> Table {
        self.prepare(begin).await.expect("a usable file")
    }

    fn lines(&self, table: &str) -> Vec<i64> {
        let connection = Connection::open(self.path()).expect("a usable file");
        let sql = format!("SELECT line FROM {table} ORDER BY line");
        let mut statement = connection.prepare(&sql).expect("it is there");
        let lines = statement.query_map([], |row| row.get(0)).expect("rows");
        lines.collect::<Result<_, _>>().expect("numbers")
    }
}

async fn store(table: &mut Table, items: &[Item]) -> (u64, u64) {
    let stored = table.store(items.into()).await.expect("it is stored");
    (stored.stored, stored.set_aside)
}

#[tokio::test]
async fn the_good_are_stored_and_each_of_the_others_is_set_aside() {
    let t = Test::new();
    let mut table = t.table(Begin::Anew).await;
    let items = [good(1), bad(2), good(3), malformed(4), bad(5), good(6)];
    assert_eq!(store(&mut table, &items).await, (3, 3));
    assert_eq!(t.lines("bulk_item"), [1, 3, 6]);
    assert_eq!(t.lines("bulk_rejected"), [2, 4, 5]);
    assert_eq!(store(&mut table, &[]).await, (0, 0));
    let held = table.held(5, 2).await.expect("it is there");
    let reason = "CHECK constraint failed: distance > 0".to_owned();
    let examples = vec![(2, reason), (4, "malformed".to_owned())];
    let expected = Held {
        stored: 2,
        set_aside: 3,
        examples,
    };
    assert_eq!(held, expected);
}

#[tokio::test]
async fn a_line_that_is_there_is_passed_over_and_never_to_blame() {
    let t = Test::new();
    let mut table = t.table(Begin::Anew).await;
    store(&mut table, &[good(1), bad(2), malformed(3)]).await;
    // Whatever it says by now, and among others.
    let again = [bad(1), malformed(1), good(2), good(3), good(4), bad(5)];
    assert_eq!(store(&mut table, &again).await, (1, 1));
    assert_eq!(t.lines("bulk_item"), [1, 4]);
    assert_eq!(t.lines("bulk_rejected"), [2, 3, 5]);
    // The same line twice at once, as of what is taken again after a crash.
    let twice = [good(7), good(7), bad(8), bad(8), malformed(9), malformed(9)];
    assert_eq!(store(&mut table, &twice).await, (1, 2));
    assert_eq!(store(&mut table, &twice).await, (0, 0));
}

#[tokio::test]
async fn the_largest_batch_is_one_insert() {
    let t = Test::new();
    let mut table = t.table(Begin::Anew).await;
    let most = i64::from(crate::args::MOST_ROWS);
    let items: Vec<Item> = (1..=most).map(good).collect();
    assert_eq!(store(&mut table, &items).await, (5_000, 0));
    let mut items: Vec<Item> = (most + 1..=2 * most).map(good).collect();
    items[4_321] = bad(most + 4_322);
    assert_eq!(store(&mut table, &items).await, (4_999, 1));
    assert_eq!(t.lines("bulk_rejected"), [most + 4_322]);
}

#[tokio::test]
async fn what_is_there_stays_only_if_it_is_to_be_kept() {
    let t = Test::new();
    let mut table = t.table(Begin::Keep).await;
    store(&mut table, &[good(1)]).await;
    drop(table);
    let mut table = t.table(Begin::Keep).await;
    assert_eq!(table.held(9, 0).await.expect("there").stored, 1);
    drop(table);
    let mut table = t.table(Begin::Anew).await;
    assert_eq!(table.held(9, 0).await.expect("there").stored, 0);
}

#[tokio::test]
async fn half_made_tables_are_made_whole() {
    for half in [
        "",
        "CREATE TABLE bulk_single (x)",
        "CREATE TABLE bulk_rejected (line INTEGER PRIMARY KEY, reason TEXT NOT NULL)",
    ] {
        let t = Test::new();
        std::fs::write(t.path(), "").expect("room");
        let connection = Connection::open(t.path()).expect("an empty file is one");
        connection.execute_batch(half).expect("good SQL");
        drop(connection);
        let mut table = t.table(Begin::Keep).await;
        assert_eq!(store(&mut table, &[good(1), bad(2)]).await, (1, 1));
        let sample = (1..=9).map(|line| (line, row(1))).collect();
        let singles = table.insert_one_by_one(sample).await.expect("they fit");
        assert_eq!(singles.rows, 9);
    }
}

#[tokio::test]
async fn the_tables_of_others_stay() {
    let t = Test::new();
    let make = |sql: &str| {
        let connection = Connection::open(t.path()).expect("a usable file");
        connection.execute_batch(sql).expect("good SQL");
    };
    let refused = async |begin, part: &str| {
        let error = t.prepare(begin).await.expect_err("refused").to_string();
        assert!(error.contains(part), "{error}");
    };
    make("CREATE TABLE diary (day TEXT)");
    refused(Begin::Anew, "another table, \"diary\"").await;
    let mut table = t.table(Begin::Keep).await;
    store(&mut table, &[good(1)]).await;
    assert_eq!(t.lines("bulk_item"), [1]);
    drop(table);
    make("DROP TABLE diary; DROP TABLE bulk_item; CREATE TABLE bulk_item (line, what)");
    refused(Begin::Keep, "line, what instead of line, tailnum").await;
    make(
        "DROP TABLE bulk_item;
         CREATE TABLE event_journal (entity_type TEXT, persistence_id TEXT);
         INSERT INTO event_journal VALUES ('Notebook', 'Notebook|a')",
    );
    refused(Begin::Anew, "another entity, \"Notebook|a\"").await;
    let nowhere = t.place(Path::new("/nowhere/bulk.sqlite"));
    let error = Table::prepare(&nowhere, Begin::Keep).await;
    let error = error.expect_err("no folder").to_string();
    assert!(error.contains("its directory does not exist"), "{error}");
}

#[tokio::test]
async fn a_file_that_somebody_else_writes_passes() {
    let t = Test::new();
    let mut table = t.table(Begin::Anew).await;
    let place = t.place(&t.path());
    let other = Connection::open(t.path()).expect("a usable file");
    other
        .execute_batch("BEGIN IMMEDIATE")
        .expect("nobody writes");
    let stored = table.store([good(1)].into()).await;
    assert!(
        matches!(stored, Err(AskFailure::Unavailable(_))),
        "{stored:?}"
    );
    other.execute_batch("ROLLBACK").expect("ours");
    assert_eq!(store(&mut table, &[good(1)]).await, (1, 0));
    // Nor is it made anew meanwhile.
    let anew = Table::prepare(&place, Begin::Anew).await;
    assert!(matches!(anew, Err(AskFailure::Unavailable(_))), "{anew:?}");
}
