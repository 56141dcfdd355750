//! What is generated from the types is fresh: `UPDATE=1 cargo test -p tidemark-crds` writes it.
#![allow(clippy::disallowed_methods, reason = "a check reads the repository")]

use std::path::Path;

use tidemark_crds::reference;

fn fresh(path: &Path, text: &str) {
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, text).expect("the repository is writable");
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        found == text,
        "{} is stale: UPDATE=1 cargo test -p tidemark-crds",
        path.display()
    );
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_definitions_are_fresh() {
    for (file, definition) in reference::definitions() {
        let yaml = serde_norway::to_string(&definition).expect("a definition is YAML");
        let text =
            format!("# Generated from crds/src: UPDATE=1 cargo test -p tidemark-crds\n{yaml}");
        fresh(&root().join("yaml").join(file), &text);
    }
}

#[test]
fn the_page_is_fresh() {
    fresh(&root().join("../docs/resources.md"), &reference::page());
}

#[test]
fn every_field_is_described() {
    for (file, _) in reference::definitions() {
        assert!(file.ends_with(".yaml"));
    }
    let page = reference::page();
    let bare: Vec<&str> = page.lines().filter(|line| line.ends_with("|  |")).collect();
    assert_eq!(bare, Vec::<&str>::new(), "fields without a description");
}
