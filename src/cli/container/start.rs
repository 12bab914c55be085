//! `ferry start`.

use std::process::ExitCode;

use clap::Args;

use super::super::{Global, exit, output};
use super::{attach, begin, containers, failed};
use crate::base::BoxFault;
use crate::runtime::container::Status;
use crate::runtime::monitor::protocol::Attach;
use crate::runtime::{RuntimeError, client, events, lifecycle};

/// Start stopped containers
#[derive(Debug, Args)]
pub struct StartArgs {
    /// Attach to output, and pass signals on
    #[arg(short, long)]
    attach: bool,
    /// Attach to input, too
    #[arg(short, long)]
    interactive: bool,
    /// The keys that detach from a terminal
    #[arg(long, value_name = "KEYS", default_value = attach::DETACH_KEYS)]
    detach_keys: String,
    /// Names or IDs
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// A failure of `run`'s start and its exit code, as docker has it.
pub fn run_failed(error: RuntimeError) -> ExitCode {
    let code = match &error {
        RuntimeError::Start { code, .. } => *code,
        _ => 125,
    };
    let _ = exit::report(&error);
    ExitCode::from(code)
}

/// Starts; attached to one, gives its exit code.
pub fn run(args: StartArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let all = containers(global);
    if args.attach || args.interactive {
        let [name] = &args.containers[..] else {
            return Err(RuntimeError::usage("you cannot start and attach multiple containers at once").into());
        };
        let keys = client::parse_detach_keys(&args.detach_keys)?;
        let dir = all.find(name)?;
        let container = dir.container()?;
        let config = &container.config;
        attach::check_terminal(args.interactive && config.open_stdin, config.tty)?;
        events::record(&global.root, &container, "attach", &[]);
        if dir.state()?.status.is_live() {
            let streams = Attach { stdin: args.interactive && config.open_stdin, stdout: true, stderr: true };
            return Ok(attach::session(dir.connect()?, streams, config.tty, &keys, true, None)?);
        }
        let streams = Attach { stdin: args.interactive && config.open_stdin, stdout: true, stderr: true };
        let started = lifecycle::start_monitor(&global.root, &dir)
            .and_then(|stream| attach::session(stream, streams, config.tty, &keys, true, Some(&global.ctx)));
        // Docker's codes of what cannot be executed are run's alone.
        return Ok(started.unwrap_or_else(|error| failed(&error)));
    }
    let mut code = ExitCode::SUCCESS;
    for name in &args.containers {
        let start = || -> Result<(), RuntimeError> {
            let dir = all.find(name)?;
            // Starting what runs is no failure, as with docker; starting what is paused is one.
            let state = dir.state()?;
            if state.status == Status::Paused {
                state.require(Status::can_start, "start", &dir.container()?.name)?;
            }
            if state.status.is_live() {
                return Ok(());
            }
            begin(lifecycle::start_monitor(&global.root, &dir)?, global)
        };
        match start() {
            Ok(()) => output::line(name)?,
            Err(error) => {
                let _ = exit::report(&error);
                code = ExitCode::from(1);
            }
        }
    }
    Ok(code)
}
