//! `ferry attach`.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use clap::Args;

use super::super::Global;
use super::{containers, exit_code};
use crate::base::{BoxFault, Ctx};
use crate::runtime::client::{self, Outcome, Terminal};
use crate::runtime::container::Status;
use crate::runtime::monitor::protocol::Attach;
use crate::runtime::{RuntimeError, container, events};

/// Docker's keys.
pub const DETACH_KEYS: &str = "ctrl-p,ctrl-q";

/// Attach to a running container's input and output
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// The keys that detach from a terminal
    #[arg(long, value_name = "KEYS", default_value = DETACH_KEYS)]
    detach_keys: String,
    /// Do not attach standard input
    #[arg(long)]
    no_stdin: bool,
    /// Pass signals on to the program
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set)]
    sig_proxy: bool,
    /// A name or an ID
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Attaches; gives the program's exit code.
pub fn run(args: AttachArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let keys = client::parse_detach_keys(&args.detach_keys)?;
    let dir = containers(global).find(&args.container)?;
    let container: container::Container = dir.container()?;
    dir.state()?.require(|status| status == Status::Running, "attach to", &container.name)?;
    let stdin = container.config.open_stdin && !args.no_stdin;
    check_terminal(stdin, container.config.tty)?;
    let streams = Attach { stdin, stdout: true, stderr: true };
    events::record(&global.root, &container, "attach", &[]);
    Ok(session(dir.connect()?, streams, container.config.tty, &keys, args.sig_proxy, None)?)
}

/// Fails, as docker, when a terminal inside is to be fed from what is none here.
pub fn check_terminal(stdin: bool, tty: bool) -> Result<(), RuntimeError> {
    if stdin && tty && !io::stdin().is_terminal() {
        return Err(RuntimeError::usage("the input device is not a TTY"));
    }
    Ok(())
}

/// Passes this process's input and output on until the program ends or the user detaches. With `begin` the program is
/// started first, and the user told what there is to know of that.
pub fn session(
    stream: UnixStream,
    streams: Attach,
    tty: bool,
    keys: &[u8],
    pass_signals: bool,
    begin: Option<&Ctx>,
) -> Result<ExitCode, RuntimeError> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let terminal = Terminal {
        stdin: streams.stdin.then(|| stdin.as_fd()),
        screen: stdout.as_fd(),
        tty,
        // A raw terminal sends control characters, not signals; those that come otherwise are passed on all the same.
        pass_signals,
        detach_keys: keys.to_vec(),
    };
    let (mut out, mut err) = (stdout.lock(), io::stderr().lock());
    let raw = tty && streams.stdin && stdin.is_terminal();
    let mut notice = |text: &str| {
        begin.into_iter().for_each(|ctx| ctx.warn(text));
        if raw {
            // A raw terminal goes to the next line, and stays in its column.
            let _ = io::stderr().write_all(b"\r");
        }
    };
    match client::attach(stream, &terminal, streams, begin.is_some(), (&mut out, &mut err), &mut notice)? {
        Outcome::Exited(code) => Ok(exit_code(code)),
        Outcome::Detached => Ok(ExitCode::SUCCESS),
        Outcome::Left(signal) => Ok(exit_code(128 + signal)),
        Outcome::Failed(failure) => Err(RuntimeError::Start { code: failure.code, message: failure.message }),
    }
}
