//! Standard output. A reader that goes away (`ferry images | head -1`) ends the command without a word, as it would a
//! program that a SIGPIPE ends; Rust's own print macros panic instead.

use std::io::{self, Write};

use crate::base::{BoxFault, Class, Fault};

/// What a shell reports for a process that SIGPIPE ended.
const BROKEN_PIPE: i32 = 141;

/// Standard output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output: {0}")]
struct OutputError(io::Error);

impl Fault for OutputError {
    fn class(&self) -> Class {
        crate::base::error::class_of_io(&self.0)
    }
}

/// Writes `text` to standard output.
pub fn print(text: impl AsRef<[u8]>) -> Result<(), BoxFault> {
    let mut out = io::stdout().lock();
    check(out.write_all(text.as_ref()).and_then(|()| out.flush()))
}

/// Writes `text` and a line break to standard output.
pub fn line(text: impl AsRef<str>) -> Result<(), BoxFault> {
    print(format!("{}\n", text.as_ref()))
}

/// Has `give` write to standard output.
pub fn stream(give: impl FnOnce(&mut dyn Write) -> Result<(), BoxFault>) -> Result<(), BoxFault> {
    let mut out = Pipe(io::stdout().lock());
    give(&mut out)?;
    check(out.flush())
}

/// Standard output that ends the command when its reader goes away.
struct Pipe<W>(W);

impl<W: Write> Write for Pipe<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(BROKEN_PIPE),
            result => result,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn check(result: io::Result<()>) -> Result<(), BoxFault> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(BROKEN_PIPE),
        result => Ok(result.map_err(OutputError)?),
    }
}

/// A text from an image or a peer, made safe for a terminal: control characters could write to it.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}
