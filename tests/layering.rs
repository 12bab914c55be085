//! The rules of the code that no compiler checks.

use std::path::{Path, PathBuf};

use crate::support::checkout;

/// The modules from the ground up, as in `lib.rs`. Each imports only from those before it.
const ORDER: [&str; 11] =
    ["base", "sys", "image", "layer", "archive", "bundle", "store", "transfer", "runtime", "ops", "cli"];

/// Every source file below `src/`, with its path from there.
fn sources() -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let src = checkout().join("src");
    let mut found = Vec::new();
    walk(&src, &mut found);
    found.sort();
    found
        .into_iter()
        .map(|path| (path.strip_prefix(&src).unwrap().to_owned(), std::fs::read_to_string(path).unwrap()))
        .collect()
}

/// Which of [`ORDER`] a file belongs to; none for the crate's root.
fn module(path: &Path) -> Option<usize> {
    let first = path.components().next()?.as_os_str().to_str()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    ORDER.iter().position(|module| *module == name)
}

/// The lines that are code, without comments and without the tests at a file's end.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| line.trim() != "#[cfg(test)]")
        .map(|(number, line)| (number + 1, line.split("//").next().unwrap_or_default()))
}

/// The first segments after each `crate::` of a file: `crate::base::x` gives base, `crate::{base, sys::y}` both.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => found.push(word(rest)),
            Some(group) => {
                let mut depth = 0;
                let mut start = true;
                for (i, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if start && !c.is_whitespace() => {
                            found.push(word(&group[i..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    found
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The faults one line can show.
fn faults(rule: impl Fn(&Path, &str) -> Option<String>) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in sources() {
        for (number, line) in code(&text) {
            if let Some(fault) = rule(&path, line) {
                found.push(format!("src/{}:{number}: {fault}", path.display()));
            }
        }
    }
    found
}

fn assert_none(found: Vec<String>) {
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn a_module_imports_only_from_those_before_it() {
    assert_eq!(
        imports("use crate::{base::{a, b}, sys, image::c}; crate::store::d()"),
        ["base", "sys", "image", "store"]
    );
    let mut found = Vec::new();
    for (path, text) in sources() {
        let Some(own) = module(&path) else { continue };
        let code: Vec<&str> = code(&text).map(|(_, line)| line).collect();
        for name in imports(&code.join("\n")) {
            match ORDER.iter().position(|module| *module == name) {
                Some(other) if other > own => {
                    found.push(format!("src/{}: {} must not import {name}", path.display(), ORDER[own]))
                }
                _ => {}
            }
        }
    }
    assert_none(found);
}

#[test]
fn every_module_is_in_the_order() {
    assert_none(
        sources()
            .into_iter()
            .map(|(path, _)| path)
            .filter(|path| module(path).is_none() && path != Path::new("lib.rs") && path != Path::new("main.rs"))
            .map(|path| format!("src/{}: not in a module that tests/layering.rs knows", path.display()))
            .collect(),
    );
}

#[test]
fn unsafe_code_is_in_sys_and_says_why_it_is_sound() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in code(&text) {
            let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            if !words.contains(&"unsafe") {
                continue;
            }
            let at = format!("src/{}:{number}", path.display());
            if module(&path) != Some(1) {
                found.push(format!("{at}: unsafe outside sys"));
            }
            // In the comment right above it, or on the line itself; `unsafe extern` blocks and types are declarations.
            let above = lines[..number - 1].iter().rev().take_while(|line| {
                let line = line.trim_start();
                line.starts_with("//") || line.starts_with("#[") || !line.ends_with([';', '}', '{'])
            });
            let said =
                above.chain([&lines[number - 1]]).any(|line| line.contains("SAFETY:") || line.contains("# Safety"));
            if !said {
                found.push(format!("{at}: no SAFETY comment"));
            }
        }
    }
    assert_none(found);
}

#[test]
fn only_the_command_line_prints_and_reads_the_environment() {
    const FORBIDDEN: [&str; 12] = [
        "print!(",
        "println!(",
        "eprint!(",
        "eprintln!(",
        "dbg!(",
        "io::stdout(",
        "io::stderr(",
        "env::var",
        "env::args",
        "env::current_dir(",
        "env::home_dir(",
        "env::temp_dir(",
    ];
    assert_none(faults(|path, line| {
        if module(path).is_none_or(|own| ORDER[own] == "cli") {
            return None;
        }
        // `print!(` is also the end of `eprint!(` and of a longer name.
        let hit = FORBIDDEN.iter().find(|what| {
            line.match_indices(**what).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
        });
        hit.map(|what| format!("library code must not use {what}"))
    }));
}

#[test]
fn nothing_is_unfinished_or_silenced() {
    assert_none(faults(|_, line| {
        ["todo!(", "unimplemented!(", "allow(dead_code)", "allow(unused"]
            .into_iter()
            .find(|what| line.contains(what))
            .map(|what| format!("{what} has no place here"))
    }));
}
