//! `ferry rm`.

use std::process::ExitCode;

use clap::Args;

use super::super::{Global, exit, output};
use super::{containers, failed};
use crate::base::BoxFault;
use crate::runtime::{RuntimeError, lifecycle};

/// Remove containers
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Kill what runs; what is not there is no failure
    #[arg(short, long)]
    force: bool,
    /// Remove their anonymous volumes, too
    #[arg(short, long)]
    volumes: bool,
    /// Names or IDs
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Removes what can be removed, then tells what cannot.
pub fn run(args: RmArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let all = containers(global);
    let mut code = ExitCode::SUCCESS;
    for name in &args.containers {
        match all.find(name).and_then(|dir| lifecycle::rm(&global.root, &dir, args.force, args.volumes)) {
            Ok(()) => output::line(name)?,
            Err(error @ RuntimeError::NoSuchContainer(_)) if args.force => drop(exit::report(&error)),
            Err(error) => code = failed(&error),
        }
    }
    Ok(code)
}
