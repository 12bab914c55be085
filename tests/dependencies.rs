//! Each dependency is there for a stated reason.

use std::collections::BTreeSet;

use crate::support::checkout;

/// The names below the `[…dependencies]` tables of Cargo.toml.
fn declared() -> BTreeSet<String> {
    let manifest = std::fs::read_to_string(checkout().join("Cargo.toml")).unwrap();
    let mut inside = false;
    let mut names = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.trim_end_matches(']').ends_with("dependencies");
        } else if inside && let Some((name, _)) = line.split_once('=') {
            names.insert(name.trim().to_owned());
        }
    }
    names
}

#[test]
fn docs_dependencies_gives_one_reason_for_each_and_lists_no_other() {
    let page = std::fs::read_to_string(checkout().join("docs/dependencies.md")).unwrap();
    let mut listed = BTreeSet::new();
    for line in page.lines() {
        // | `name` | reason |
        let Some((name, reason)) = line.strip_prefix("| `").and_then(|line| line.split_once("` | ")) else { continue };
        assert!(reason.trim_end_matches('|').trim().len() > 10, "a reason for {name}");
        assert!(listed.insert(name.to_owned()), "{name} is listed twice");
    }
    assert_eq!(declared(), listed, "Cargo.toml (left) and docs/dependencies.md (right) must name the same crates");
}
