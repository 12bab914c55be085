//! `ferry restart`.

use std::process::ExitCode;

use clap::Args;

use super::super::Global;
use super::stop::patience;
use super::{begin, each};
use crate::base::BoxFault;
use crate::runtime::{events, lifecycle, signals};

/// Restart containers
#[derive(Debug, Args)]
pub struct RestartArgs {
    /// The signal to ask with
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
    /// Seconds to wait before killing; -1 for ever
    #[arg(short, long, visible_alias = "timeout", value_name = "SECONDS", allow_hyphen_values = true)]
    time: Option<i64>,
    /// Names or IDs
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Restarts.
pub fn run(args: RestartArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let signal = args.signal.as_deref().map(signals::parse).transpose()?;
    each(global, &args.containers, |dir| {
        lifecycle::stop(&global.root, dir, signal, patience(dir, args.time)?, true)?;
        begin(lifecycle::start_monitor(&global.root, dir)?, global)?;
        events::record(&global.root, &dir.container()?, "restart", &[]);
        Ok(())
    })
}
