//! `ferry version`.

use std::process::ExitCode;

use clap::Args;

use super::Global;
use crate::base::BoxFault;

/// Show the version
#[derive(Debug, Args)]
pub struct VersionArgs {}

/// Prints the version and what the binary was built for.
pub fn run(_: VersionArgs, _: &Global) -> Result<ExitCode, BoxFault> {
    println!("ferry {} {}", env!("CARGO_PKG_VERSION"), crate::image::Platform::host());
    Ok(ExitCode::SUCCESS)
}
