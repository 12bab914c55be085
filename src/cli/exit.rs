//! Errors as users see them: one line, a hint where there is one, and a documented exit code.

use std::process::ExitCode;

use super::hint;
use crate::base::{Class, Fault};

/// The exit codes, for `ferry --help`, ferry's manual page and docs/commands.md.
pub const TABLE: &str = "\
Exit codes:
  0    done
  1    the system failed: input, output, permissions
  2    the command line is wrong
  3    something named does not exist
  4    something exists already, is in use, or is in another state than needed
  5    input is malformed or over a limit
  6    bytes are not what a digest, checksum or signature promises
  7    a policy, a lock or a safety rule forbids it
  8    there is not enough room
  9    the far side, or the line to it, failed
  10   the format, kernel or host lacks something
  130  interrupted
  141  the reader of standard output went away
Docker's commands for containers, networks, volumes and the system have docker's codes: 1 for every failure, 125 for a wrong
option; run gives 125 for ferry's own failures, 126 for what cannot be executed, 127 for what is not there, else the program's code.";

/// The command line is wrong.
pub fn usage() -> ExitCode {
    ExitCode::from(code(Class::Usage))
}

/// The exit code of a failure class, as [`TABLE`] lists them.
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
    tell(fault, None);
    ExitCode::from(code(fault.class()))
}

/// Prints an error, of one of several objects of a command when `of` is given.
pub fn tell(fault: &dyn Fault, of: Option<&str>) {
    let text = one_line(&fault.to_string());
    match of {
        Some(object) if !text.starts_with(object) => eprintln!("ferry: {object}: {text}"),
        _ => eprintln!("ferry: {text}"),
    }
    if let Some(hint) = hint::of(fault) {
        eprintln!("hint: {hint}");
    }
}

/// Names in messages come from images and peers: control characters would let them write to the terminal.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
