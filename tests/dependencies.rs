//! Each dependency is there for a stated reason.

use std::collections::BTreeSet;
use std::path::Path;

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

/// The code of every source file below a directory, without comments; and the names of their modules.
fn sources(dir: &Path, code: &mut Vec<String>, modules: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, code, modules);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            code.push(text.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n").collect());
            modules.insert(path.file_stem().unwrap().to_string_lossy().into_owned());
        }
    }
}

/// Whether a path begins with this name: `name::`, behind anything but the rest of a path.
fn begins_a_path(code: &str, name: &str) -> bool {
    let part_of_a_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    code.match_indices(&format!("{name}::")).any(|(at, _)| !code[..at].ends_with(part_of_a_path))
}

#[test]
fn every_crate_is_used() {
    let (mut code, mut modules) = (Vec::new(), BTreeSet::new());
    sources(&checkout().join("src"), &mut code, &mut modules);
    sources(&checkout().join("tests"), &mut code, &mut modules);
    for name in declared() {
        let name = name.replace('-', "_");
        // A module of the same name is meant unless it is imported as a crate.
        let imported =
            |code: &String| code.contains(&format!("use {name}::")) || code.contains(&format!("use ::{name}"));
        let used = |code: &String| imported(code) || !modules.contains(&name) && begins_a_path(code, &name);
        assert!(code.iter().any(used), "Cargo.toml names {name}, and nothing uses it");
    }
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
