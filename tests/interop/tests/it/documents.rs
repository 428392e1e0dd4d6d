//! `docs/pekko.md` names a test for each line; each of them is there.

use std::fs;
use std::path::Path;

#[test]
fn every_line_about_pekko_names_tests_that_exist() {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| {
        let path = crate_dir.join(path);
        fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{} cannot be read: {error}", path.display()))
    };
    let page = read("../../docs/pekko.md");
    let mut named = Vec::new();
    for line in page.lines().filter(|line| line.starts_with("| ")) {
        let line = line.trim_end_matches([' ', '|']);
        let (_, shown_by) = line.rsplit_once(" | ").expect("a row has several cells");
        if shown_by == "shown by" {
            continue;
        }
        for name in shown_by.split(", ").map(|name| name.trim_matches('`')) {
            let (module, test) = name.split_once("::").expect("a module and a test");
            if module == "contract" {
                read(&format!(
                    "../../crates/perennial-testkit/src/contract/{test}.rs"
                ));
                continue;
            }
            let code = read(&format!("tests/it/{module}.rs"));
            assert!(code.contains(&format!("fn {test}(")), "{name} is not there");
            named.push(test.to_owned());
        }
    }
    // And the other way round: every case is told.
    let tests = read("tests/it/pekko.rs");
    let tests = tests.split("#[tokio::test").skip(1);
    for test in tests.filter_map(|test| test.split_once("async fn ")?.1.split_once('(')) {
        assert!(
            named.iter().any(|name| name == test.0),
            "{} is not told",
            test.0
        );
    }
    assert!(named.len() > 25, "only {} names were found", named.len());
}
