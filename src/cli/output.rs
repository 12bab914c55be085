//! Standard output, and files in its place. A reader that goes away (`ferry images | head -1`) ends the command without a word, as it would a
//! program that a SIGPIPE ends; Rust's own print macros panic instead.

use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use crate::base::durable::AtomicFile;
use crate::base::{AtPath, BoxFault, Class, Fault};

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
    // The standard library's own buffer ends at each line break.
    let mut out = BufWriter::with_capacity(1 << 20, Pipe(io::stdout().lock()));
    give(&mut out)?;
    check(out.flush())
}

/// Has `give` write to a file, which gets its name and its mode when it is whole, or to standard output.
pub fn write(
    to: Option<&Path>,
    mode: u32,
    give: impl FnOnce(&mut dyn Write) -> Result<(), BoxFault>,
) -> Result<ExitCode, BoxFault> {
    match to {
        None => stream(give)?,
        // A device or a fifo is written to as it is.
        Some(path) if path.metadata().is_ok_and(|meta| !meta.is_file()) => {
            let file = File::options().write(true).open(path).at("open", path)?;
            let mut out = BufWriter::with_capacity(1 << 20, file);
            give(&mut out)?;
            out.flush().at("write", path)?;
        }
        Some(path) => {
            let mut file = AtomicFile::create(path, 0o600)?;
            let mut out = BufWriter::with_capacity(1 << 16, &mut file);
            give(&mut out)?;
            out.flush().at("write", path)?;
            drop(out);
            file.file().set_permissions(Permissions::from_mode(mode)).at("change the mode of", path)?;
            file.commit()?;
        }
    }
    Ok(ExitCode::SUCCESS)
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
