//! An input that cannot be seeked is kept, as it comes, in a file without a name: it vanishes with the process.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use super::error::ArchiveError;
use crate::base::Ctx;

/// The room is looked at again after so many bytes.
const STEP: usize = 16 << 20;
/// What is left free for everybody else.
const RESERVE: u64 = 16 << 20;

/// Copies `input` to a nameless file in `directory`.
pub fn spool(input: &mut dyn Read, origin: &str, directory: &Path, ctx: &Ctx) -> Result<File, ArchiveError> {
    let fail = |source: io::Error| ArchiveError::Spool {
        origin: origin.to_owned(),
        directory: directory.display().to_string(),
        source,
    };
    let mut file = tempfile::tempfile_in(directory).map_err(fail)?;
    let task = ctx.begin("Receiving", origin, None);
    let mut buffer = vec![0; 1 << 20];
    let mut until_check = 0;
    loop {
        let n = match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted && ctx.check().is_ok() => continue,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(fail(interrupted(ctx, error))),
            Err(source) => {
                return Err(ArchiveError::Read { origin: origin.to_owned(), entry: "the input".into(), source });
            }
        };
        if until_check < n {
            let free = rustix::fs::fstatvfs(&file).map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize));
            if free.map_err(|error| fail(error.into()))? < RESERVE + STEP as u64 {
                return Err(fail(io::ErrorKind::StorageFull.into()));
            }
            until_check = STEP;
        }
        until_check -= n;
        file.write_all(&buffer[..n]).map_err(fail)?;
        task.advance(n as u64).map_err(|stop| fail(stop.into()))?;
    }
    task.complete();
    Ok(file)
}

fn interrupted(ctx: &Ctx, error: io::Error) -> io::Error {
    match ctx.check() {
        Err(stop) => stop.into(),
        Ok(()) => error,
    }
}
