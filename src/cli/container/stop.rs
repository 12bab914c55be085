//! `ferry stop`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::super::Global;
use super::each;
use crate::base::BoxFault;
use crate::runtime::RuntimeError;
use crate::runtime::container::ContainerDir;
use crate::runtime::{lifecycle, signals};

/// Stop running containers
#[derive(Debug, Args)]
pub struct StopArgs {
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

/// Stops.
pub fn run(args: StopArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let signal = args.signal.as_deref().map(signals::parse).transpose()?;
    each(global, &args.containers, |dir| lifecycle::stop(&global.root, dir, signal, patience(dir, args.time)?, false))
}

/// How long a container has to stop: what the flag says, or the container's own.
pub fn patience(dir: &ContainerDir, seconds: Option<i64>) -> Result<Option<Duration>, RuntimeError> {
    Ok(match seconds {
        None => signals::stop_timeout(&dir.container()?),
        Some(seconds) => u64::try_from(seconds).ok().map(Duration::from_secs),
    })
}
