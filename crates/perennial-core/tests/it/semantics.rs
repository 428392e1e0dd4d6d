//! `docs/semantics.md` names a test for each guarantee; each of them is there.

use std::path::Path;

#[test]
fn every_guarantee_names_tests_that_exist() {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &Path| {
        std::fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("{} cannot be read: {error}", path.display()))
    };
    let pages =
        ["semantics.md", "checklist.md"].map(|page| read(&crate_dir.join("../../docs").join(page)));
    let page = pages.join("\n");
    let mut checked = 0;
    for line in page.lines().filter(|line| line.starts_with("| ")) {
        let row = line.trim_end().strip_suffix('|');
        let (_, shown_by) = row
            .and_then(|row| row.rsplit_once('|'))
            .expect("a row has several cells");
        if shown_by.trim() == "shown by" {
            continue;
        }
        for name in shown_by
            .split(',')
            .map(|name| name.trim().trim_matches('`'))
            .filter(|name| !name.is_empty())
        {
            let parts: Vec<&str> = name.split("::").collect();
            let (file, test) = match parts[..] {
                ["simulation" | "actor_simulation" | "cluster_simulation" | "flights"] => continue,
                ["contract", suite] => (format!("perennial-testkit/src/contract/{suite}.rs"), ""),
                ["contract", suite, test] => {
                    (format!("perennial-testkit/src/contract/{suite}.rs"), test)
                }
                ["columns" | "pekko" | "turns", test] => {
                    (format!("../tests/interop/tests/it/{}.rs", parts[0]), test)
                }
                ["it", module, test] => (format!("../tests/it/{module}.rs"), test),
                ["telemetry", test] => ("perennial-core/tests/telemetry.rs".to_owned(), test),
                ["spec", test] => ("perennial-testkit/tests/spec.rs".to_owned(), test),
                ["properties", test] => (
                    "perennial-testkit/tests/spec_properties.rs".to_owned(),
                    test,
                ),
                ["test_system", test] => {
                    ("perennial-testkit/tests/test_system.rs".to_owned(), test)
                }
                ["sharding", "catches", test] => (
                    "perennial-sharding/tests/simulation_catches.rs".to_owned(),
                    test,
                ),
                ["sharding", "single_node", test] => {
                    ("perennial-sharding/tests/single_node.rs".to_owned(), test)
                }
                ["sharding", module @ ("allocation" | "keeper"), test] => {
                    (format!("perennial-sharding/src/{module}/tests.rs"), test)
                }
                ["sharding", file, test] => (format!("perennial-sharding/src/{file}.rs"), test),
                ["core", file, test] => (format!("perennial-core/src/{file}.rs"), test),
                ["postgres", file] => (format!("perennial-postgres/tests/{file}.rs"), ""),
                ["postgres", file, test] => (format!("perennial-postgres/tests/{file}.rs"), test),
                ["persistence", "golden", test] => {
                    ("perennial-persistence/tests/golden.rs".to_owned(), test)
                }
                ["persistence", file, test] => {
                    (format!("perennial-persistence/src/{file}.rs"), test)
                }
                [module, test] => (format!("perennial-core/tests/it/{module}.rs"), test),
                _ => panic!("{name} names no test: {line}"),
            };
            let code = read(&crate_dir.join("..").join(file));
            let found = test.is_empty() || code.contains(&format!("fn {test}("));
            assert!(found, "{name} is not there");
            checked += 1;
        }
    }
    assert!(checked > 80, "only {checked} names were found");
}
