//! Errors as users see them: one line, a hint where there is one, and a documented exit code.

use std::process::ExitCode;

use crate::base::{Class, Fault};

/// The command line is wrong.
pub fn usage() -> ExitCode {
    ExitCode::from(code(Class::Usage))
}

/// The exit code of a failure class; listed in the README and in `ferry --help`.
pub fn code(class: Class) -> u8 {
    match class {
        Class::System => 1,
        Class::Usage => 2,
        Class::NotFound => 3,
        Class::Conflict => 4,
        Class::Malformed => 5,
        Class::Integrity => 6,
        Class::Refused => 7,
        Class::NoSpace => 8,
        Class::Peer => 9,
        Class::Unsupported => 10,
        Class::Interrupted => 130,
    }
}

/// Prints the error and gives its exit code.
pub fn report(fault: &dyn Fault) -> ExitCode {
    eprintln!("ferry: {}", one_line(&fault.to_string()));
    ExitCode::from(code(fault.class()))
}

/// Names in messages come from images and peers: control characters would let them write to the terminal.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
