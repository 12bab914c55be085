//! `ferry update`.

use std::process::ExitCode;

use clap::Args;

use super::super::Global;
use super::each;
use super::flags::limits::LimitFlags;
use super::flags::values;
use crate::base::BoxFault;
use crate::runtime::RuntimeError;
use crate::runtime::lifecycle;

/// Change limits and restart policies
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// When to start it again: no, always, unless-stopped, on-failure[:NUMBER]
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// Names or IDs
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
    #[command(flatten)]
    limits: LimitFlags,
}

/// Changes.
pub fn run(args: UpdateArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    if args.restart.is_none() && args.limits == LimitFlags::default() {
        return Err(RuntimeError::usage("you must provide one or more flags when using this command").into());
    }
    let restart = args.restart.as_deref().map(values::restart_policy).transpose()?;
    let limits = args.limits.resolve()?;
    each(global, &args.containers, |dir| lifecycle::update(&global.root, dir, &limits, restart.as_ref()))
}
