//! `ferry exec`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::super::{Global, exit};
use super::flags::values;
use super::{attach, containers, failed};
use crate::base::BoxFault;
use crate::runtime::exec::{self, Request};
use crate::runtime::monitor::protocol::Attach;
use crate::runtime::{RuntimeError, client};

/// Run a command in a running container
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Run it in the background
    #[arg(short, long)]
    detach: bool,
    /// The keys that detach from a terminal
    #[arg(long, value_name = "KEYS", default_value = attach::DETACH_KEYS)]
    detach_keys: String,
    /// Set an environment variable
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Keep standard input open
    #[arg(short, long)]
    interactive: bool,
    /// Give it all rights
    #[arg(long)]
    privileged: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// User and group, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// The working directory
    #[arg(short, long, value_name = "PATH")]
    workdir: Option<String>,
    /// A name or an ID
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// What to run
    #[arg(required = true, value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Runs; gives the command's exit code.
pub fn run(args: ExecArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let dir = containers(global).find(&args.container)?;
    let keys = client::parse_detach_keys(&args.detach_keys)?;
    let mut env = Vec::new();
    for file in &args.env_file {
        env.extend(values::env_lines(&values::read(file)?)?);
    }
    for text in &args.env {
        env.push(values::env_pair(text)?.unwrap_or_else(|| text.clone()));
    }
    if !args.detach {
        attach::check_terminal(args.interactive, args.tty)?;
    }
    let request = Request {
        command: args.command,
        env,
        working_dir: args.workdir,
        user: args.user,
        privileged: args.privileged,
        tty: args.tty,
        interactive: args.interactive && !args.detach,
        pid: None,
    };
    let run = || -> Result<ExitCode, RuntimeError> {
        let stream = exec::spawn(&global.root, &dir, &request)?;
        if args.detach {
            return client::begin(stream).map(|_| ExitCode::SUCCESS);
        }
        let streams = Attach { stdin: request.interactive, stdout: true, stderr: true };
        // Docker's exec passes no signals on, but ends when it is interrupted itself; with a terminal they are keys.
        attach::session(stream, streams, request.tty, &keys, false, Some(&global.ctx))
    };
    Ok(run().unwrap_or_else(|error| match error {
        // Docker's one code for whatever cannot be executed; in the background nobody waits for one.
        RuntimeError::Start { .. } if !args.detach => {
            let _ = exit::report(&error);
            ExitCode::from(126)
        }
        error => failed(&error),
    }))
}
