//! `ferry kill`.

use std::process::ExitCode;

use clap::Args;

use super::super::Global;
use super::each;
use crate::base::BoxFault;
use crate::runtime::{lifecycle, signals};

/// Send a signal to running containers
#[derive(Debug, Args)]
pub struct KillArgs {
    /// The signal
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    signal: String,
    /// Names or IDs
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Sends.
pub fn run(args: KillArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let signal = signals::parse(&args.signal)?;
    each(global, &args.containers, |dir| lifecycle::kill(dir, signal))
}
