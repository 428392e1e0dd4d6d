//! The cells of the tables, where two databases should have the same.

use std::collections::{BTreeMap, BTreeSet};

use perennial_testkit::postgres::TestPostgres;

/// The cells of a row by column; NULL is left out, tags are in order.
pub type Cells = BTreeMap<String, String>;

/// A table's rows by persistence id and `number`, which is a column, without the columns that differ
/// between any two runs: times and writer ids.
pub fn rows(database: &TestPostgres, table: &str, number: &str) -> BTreeMap<(String, i64), Cells> {
    let columns = database.query(&format!(
        "SELECT column_name FROM information_schema.columns WHERE table_name = '{table}' \
         AND column_name NOT IN ('db_timestamp', 'write_timestamp', 'writer') ORDER BY 1"
    ));
    let columns: Vec<String> = columns.into_iter().flatten().flatten().collect();
    let selected: Vec<String> = columns
        .iter()
        .map(|column| match column.as_str() {
            "tags" => "(SELECT array_agg(tag ORDER BY tag COLLATE \"C\") FROM unnest(tags) AS tag)"
                .to_owned(),
            column => column.to_owned(),
        })
        .collect();
    let sql = format!("SELECT {} FROM {table}", selected.join(", "));
    let mut rows = BTreeMap::new();
    for row in database.query(&sql) {
        let cells: Cells = columns
            .iter()
            .zip(row)
            .filter_map(|(column, cell)| Some((column.clone(), cell?)))
            .collect();
        let nr = cells[number].parse().expect("a number");
        rows.insert((cells["persistence_id"].clone(), nr), cells);
    }
    rows
}

/// Where two rows differ, but for the columns `except`. `what` names the rows.
pub fn differing(what: &str, left: &Cells, right: &Cells, except: &[&str]) -> Vec<String> {
    let columns: BTreeSet<_> = left.keys().chain(right.keys()).collect();
    let columns = columns
        .into_iter()
        .filter(|column| !except.contains(&column.as_str()));
    let differing = columns.filter(|column| left.get(*column) != right.get(*column));
    let shown = |cell: Option<&String>| match cell {
        Some(cell) => cell.chars().take(400).collect(),
        None => "NULL".to_owned(),
    };
    differing
        .map(|column| {
            let (left, right) = (shown(left.get(column)), shown(right.get(column)));
            format!("{what} {column}: {left} | {right}")
        })
        .collect()
}
