//! `ferry pause` and `ferry unpause`.

use std::process::ExitCode;

use clap::Args;

use super::super::Global;
use super::each;
use crate::base::BoxFault;
use crate::runtime::lifecycle;

/// Pause all processes of containers
#[derive(Debug, Args)]
pub struct PauseArgs {
    /// Names or IDs
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Let paused containers go on
#[derive(Debug, Args)]
pub struct UnpauseArgs {
    /// Names or IDs
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Pauses.
pub fn pause(args: PauseArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    each(global, &args.containers, |dir| lifecycle::pause(dir, true))
}

/// Unpauses.
pub fn unpause(args: UnpauseArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    each(global, &args.containers, |dir| lifecycle::pause(dir, false))
}
