//! The README says what is so.

use std::collections::BTreeSet;
use std::process::Command;

use crate::support::{checkout, ferry};

/// The lines inside the README's fenced blocks.
fn examples() -> Vec<String> {
    let readme = std::fs::read_to_string(checkout().join("README.md")).unwrap();
    let mut inside = false;
    let mut lines = Vec::new();
    for line in readme.lines() {
        if line.starts_with("```") {
            inside = !inside;
        } else if inside {
            lines.push(line.split('#').next().unwrap_or_default().trim().to_owned());
        }
    }
    lines
}

#[test]
fn every_command_the_readme_shows_exists_with_its_options() {
    let mut seen = 0;
    for line in examples() {
        for command in line.split('|').map(str::trim).filter_map(|part| part.strip_prefix("ferry ")) {
            let words: Vec<&str> = command.split_whitespace().collect();
            let verb = words[0];
            let help = Command::new(ferry()).args([verb, "--help"]).output().unwrap();
            assert!(help.status.success(), "`{line}`: there is no ferry {verb}");
            let help = String::from_utf8(help.stdout).unwrap();
            // What follows `run IMAGE` is the container's own command.
            let own = words.iter().take_while(|word| **word != "--").filter(|word| word.starts_with("--"));
            for option in own {
                let name = option.split('=').next().unwrap();
                assert!(help.contains(name), "`{line}`: ferry {verb} has no {name}");
            }
            seen += 1;
        }
    }
    assert!(seen > 5, "the README shows only {seen} commands");
}

#[test]
fn every_make_target_the_readme_shows_exists() {
    let makefile = std::fs::read_to_string(checkout().join("Makefile")).unwrap();
    let targets: BTreeSet<&str> =
        makefile.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name).collect();
    for line in examples() {
        if let Some(target) = line.strip_prefix("make ").and_then(|rest| rest.split_whitespace().next()) {
            assert!(targets.contains(target), "`{line}`: the Makefile has no target {target}");
        }
    }
}
