//! Docker's commands for containers.

pub mod attach;
pub mod commit;
pub mod cp;
pub mod create;
pub mod diff;
pub mod events;
pub mod exec;
pub mod export;
pub mod flags;
pub mod group;
pub mod kill;
pub mod logs;
pub mod pause;
mod platform;
pub mod port;
mod processes;
pub mod prune;
pub mod ps;
pub mod rename;
pub mod restart;
pub mod rm;
pub mod run;
pub mod start;
pub mod stats;
pub mod stop;
pub mod top;
pub mod update;
pub mod wait;

use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use super::{Global, exit, output};
use crate::base::{BoxFault, Fault};
use crate::runtime::container::{ContainerDir, Containers};
use crate::runtime::{RuntimeError, client, lifecycle};

/// The store's containers, those of lost monitors recovered.
pub fn containers(global: &Global) -> Containers {
    for failure in lifecycle::recover_all(&global.root, false) {
        global.ctx.warn(failure.to_string());
    }
    Containers::new(&global.root)
}

/// Does something to each container, prints the names it worked for and reports the others.
pub fn each(
    global: &Global,
    names: &[String],
    act: impl Fn(&ContainerDir) -> Result<(), RuntimeError>,
) -> Result<ExitCode, BoxFault> {
    let containers = containers(global);
    let mut code = ExitCode::SUCCESS;
    for name in names {
        match containers.find(name).and_then(|dir| act(&dir)) {
            Ok(()) => output::line(name)?,
            Err(error) => code = failed(&error),
        }
    }
    Ok(code)
}

/// Has a new monitor start its container, and tells the user what there is to know of that.
fn begin(stream: UnixStream, global: &Global) -> Result<(), RuntimeError> {
    client::begin(stream)?.into_iter().for_each(|notice| global.ctx.warn(notice));
    Ok(())
}

/// An exit code of a program as one of this process.
pub fn exit_code(code: i32) -> ExitCode {
    ExitCode::from((code & 0xff) as u8)
}

/// Commands of docker's for containers and what belongs to them.
const DOCKERS: [&str; 27] = [
    "attach",
    "commit",
    "container",
    "cp",
    "create",
    "events",
    "exec",
    "export",
    "kill",
    "logs",
    "network",
    "pause",
    "port",
    "ps",
    "rename",
    "restart",
    "rm",
    "run",
    "start",
    "stats",
    "stop",
    "system",
    "top",
    "unpause",
    "update",
    "volume",
    "wait",
];

/// Whether this is one of them: its failures then have docker's codes.
pub fn is_dockers(verb: &str) -> bool {
    DOCKERS.contains(&verb)
}

/// Reports a failure of such a command; docker knows one code for all.
pub fn failed(fault: &dyn Fault) -> ExitCode {
    let _ = exit::report(fault);
    ExitCode::from(1)
}

/// Docker's code for its own failures in `run`.
pub fn own_failure(fault: BoxFault) -> ExitCode {
    let _ = exit::report(&*fault);
    ExitCode::from(125)
}
