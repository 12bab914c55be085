//! `ferry rename`.

use std::process::ExitCode;

use clap::Args;

use super::super::Global;
use super::containers;
use crate::base::BoxFault;
use crate::runtime::lifecycle;

/// Rename a container
#[derive(Debug, Args)]
pub struct RenameArgs {
    /// A name or an ID
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// The new name
    #[arg(value_name = "NEW_NAME")]
    name: String,
}

/// Renames.
pub fn run(args: RenameArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    lifecycle::rename(&global.root, &containers(global).find(&args.container)?, &args.name)?;
    Ok(ExitCode::SUCCESS)
}
