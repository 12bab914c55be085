//! `ferry run`.

use std::process::ExitCode;

use clap::Args;

use super::super::{Global, output};
use super::flags::ContainerFlags;
use super::{attach, begin, containers, create, own_failure};
use crate::base::BoxFault;
use crate::runtime::container::{Container, ContainerDir};
use crate::runtime::monitor::protocol::Attach;
use crate::runtime::{RuntimeError, client, events, lifecycle};

/// Create and run a container
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct RunArgs {
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// Run in the background and print the ID
    #[arg(short, long)]
    detach: bool,
    /// The keys that detach from a terminal
    #[arg(long, value_name = "KEYS", default_value = attach::DETACH_KEYS)]
    detach_keys: String,
    /// Pass signals on to the program
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set)]
    sig_proxy: bool,
    #[command(flatten)]
    flags: ContainerFlags,
}

/// Runs; gives the program's exit code, or 125 to 127 where there is none.
pub fn run(args: RunArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let containers = containers(global);
    if args.detach && !args.flags.attach.is_empty() {
        return Err(RuntimeError::usage("conflicting options: -a and -d").into());
    }
    if !args.detach {
        // Docker gives 1 for it.
        attach::check_terminal(args.flags.interactive, args.flags.tty)?;
    }
    let keys = match client::parse_detach_keys(&args.detach_keys) {
        Ok(keys) => keys,
        Err(error) => return Ok(own_failure(error.into())),
    };
    let container = match create::Wanted::of(args.flags, args.detach).and_then(|wanted| create::make(wanted, global)) {
        Ok(container) => container,
        Err(fault) => return Ok(own_failure(fault)),
    };
    let dir = containers.dir(&container.id);
    match start(&args.detach, &keys, args.sig_proxy, &container, &dir, global) {
        Ok(code) => Ok(code),
        Err(error) => Ok(super::start::run_failed(error)),
    }
}

fn start(
    detach: &bool,
    keys: &[u8],
    pass_signals: bool,
    container: &Container,
    dir: &ContainerDir,
    global: &Global,
) -> Result<ExitCode, RuntimeError> {
    let stream = lifecycle::start_monitor(&global.root, dir)?;
    if *detach {
        let begun = begin(stream, global);
        // The ID is what the caller came for, as with docker also of one that could not be started; that it cannot be written
        // is told as any other failure.
        let said = output::line(&container.id);
        begun?;
        return Ok(said.map_or_else(own_failure, |()| ExitCode::SUCCESS));
    }
    let config = &container.config;
    events::record(&global.root, container, "attach", &[]);
    let streams = Attach { stdin: config.attach_stdin, stdout: config.attach_stdout, stderr: config.attach_stderr };
    attach::session(stream, streams, config.tty, keys, pass_signals, Some(&global.ctx))
}
