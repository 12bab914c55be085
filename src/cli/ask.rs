//! Questions to the user, on the terminal itself: standard input and output may be an archive.

use std::fs::{File, OpenOptions};
use std::io::Write;

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::transfer::ssh::Prompter;

/// Asks on the controlling terminal; without one nothing is answered.
pub struct Terminal;

impl Terminal {
    fn ask(question: &str, echo: bool) -> Option<String> {
        let mut terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").ok()?;
        let clean: String = question.chars().filter(|c| !c.is_control()).collect();
        write!(terminal, "{clean}").ok()?;
        let quiet = if echo { None } else { Some(Quiet::on(&terminal)?) };
        let answer = read_line(&terminal);
        if quiet.is_some() {
            // The user's Enter was not shown either.
            let _ = writeln!(&terminal);
        }
        answer
    }
}

/// The longest answer that is taken, in bytes.
const ANSWER_BYTES: usize = 4096;

/// One line, without its end. Not std's `read_line`, which goes on after Ctrl-C.
fn read_line(terminal: &File) -> Option<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        match rustix::io::read(terminal, &mut byte) {
            Ok(1) if byte[0] == b'\n' => break,
            Ok(1) if line.len() < ANSWER_BYTES => line.push(byte[0]),
            _ => return None,
        }
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).ok()
}

/// Switches echo off, and back on when dropped.
struct Quiet<'t> {
    terminal: &'t File,
    before: rustix::termios::Termios,
}

impl<'t> Quiet<'t> {
    fn on(terminal: &'t File) -> Option<Self> {
        let before = tcgetattr(terminal).ok()?;
        let mut quiet = before.clone();
        quiet.local_modes &= !(LocalModes::ECHO | LocalModes::ECHONL);
        tcsetattr(terminal, OptionalActions::Flush, &quiet).ok()?;
        Some(Self { terminal, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // A terminal that went away needs no echo.
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}

impl Prompter for Terminal {
    fn secret(&self, question: &str) -> Option<String> {
        Self::ask(question, false)
    }

    fn word(&self, question: &str) -> Option<String> {
        Self::ask(question, true)
    }

    fn confirm(&self, question: &str) -> bool {
        let answer = Self::ask(&format!("{question} [y/N] "), true);
        matches!(answer.as_deref().map(str::trim), Some("y" | "Y" | "yes" | "Yes"))
    }
}
