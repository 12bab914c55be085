//! Processes of this binary that ferry starts for itself: a container's monitor, a
//! process beside the container's own. They are recognised before anything
//! else is set up, and stay small.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use crate::runtime::{client, exec, monitor};
use crate::sys::process::inherited;

/// Runs a helper, if this process is to be one.
pub fn run() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    let main = match args.next()? {
        name if name == client::MONITOR => monitor::main,
        name if name == exec::EXEC => exec::main,
        _ => return None,
    };
    let (root, id) = (args.next()?, args.next()?);
    // The command that started this process is at the other end of standard input.
    let control = UnixStream::from(inherited(0)?);
    let code = main(Path::new(&root), id.to_str()?, control);
    Some(ExitCode::from(code as u8))
}
