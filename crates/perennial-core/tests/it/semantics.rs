//! `docs/semantics.md` names a test for each guarantee; each of them is there.

use std::path::Path;

#[test]
fn every_guarantee_names_tests_that_exist() {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &Path| {
        std::fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("{} cannot be read: {error}", path.display()))
    };
    let page = read(&crate_dir.join("../../docs/semantics.md"));
    let mut checked = 0;
    for line in page.lines().filter(|line| line.starts_with("| ")) {
        let (_, shown_by) = line
            .trim_end_matches([' ', '|'])
            .rsplit_once('|')
            .expect("a row has several cells");
        if shown_by.trim() == "shown by" {
            continue;
        }
        for name in shown_by
            .split(',')
            .map(|name| name.trim().trim_matches('`'))
        {
            match name.split_once("::") {
                None => assert_eq!(name, "simulation", "{line}"),
                Some(("contract", suite)) => {
                    let suites = crate_dir.join("../perennial-testkit/src/contract");
                    read(&suites.join(format!("{suite}.rs")));
                }
                Some((module, test)) => {
                    let file = match module {
                        "spec" => "../perennial-testkit/tests/spec.rs".to_owned(),
                        "columns" | "pekko" | "turns" => {
                            format!("../../tests/interop/tests/it/{module}.rs")
                        }
                        _ => format!("tests/it/{module}.rs"),
                    };
                    let code = read(&crate_dir.join(file));
                    let found = code.contains(&format!("fn {test}("));
                    assert!(found, "{name} is not there");
                }
            }
            checked += 1;
        }
    }
    assert!(checked > 80, "only {checked} names were found");
}
