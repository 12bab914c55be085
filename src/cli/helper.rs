//! Processes of this binary that ferry starts for itself: a container's monitor. They are recognised before anything
//! else is set up, and stay small.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use crate::runtime::{client, monitor};
use crate::sys::process::inherited;

/// Runs a helper, if this process is to be one.
pub fn run() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != client::MONITOR {
        return None;
    }
    let (root, id) = (args.next()?, args.next()?);
    // The command that started this process is at the other end of standard input.
    let control = UnixStream::from(inherited(0)?);
    let code = monitor::main(Path::new(&root), id.to_str()?, control);
    Some(ExitCode::from(code as u8))
}
