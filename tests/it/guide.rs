//! The pages of the guide show the code that their examples use.

use std::path::Path;

#[test]
fn the_page_about_tests_shows_the_entity_that_it_tests() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guide");
    let read = |name: &str| {
        std::fs::read_to_string(guide.join(name))
            .unwrap_or_else(|error| panic!("{name} cannot be read: {error}"))
    };
    let shown = format!("```rust\n{}```\n", read("account.rs"));
    assert!(
        read("test-an-entity.md").contains(&shown),
        "test-an-entity.md does not show account.rs as it is"
    );
}
