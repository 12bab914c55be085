//! `ferry copy`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{Global, output};
use crate::base::BoxFault;
use crate::ops::repair;

/// Copy a bundle to another medium, going on where an interrupted copy ended
///
/// Every byte is checked as it is read. Volumes and parts of volumes that are at the destination already are compared,
/// not written again.
#[derive(Debug, Args)]
pub struct CopyArgs {
    /// A bundle: its directory, or any of its volumes
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
    /// A directory, or for a bundle of one file the new file
    #[arg(value_name = "DEST")]
    to: PathBuf,
}

/// Copies.
pub fn run(args: CopyArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let copied = repair::copy(&[args.bundle], &args.to, &global.ctx)?;
    let text = format!(
        "{} volumes: {} bytes written, {} bytes were there\n",
        copied.files.len(),
        copied.written,
        copied.there
    );
    output::print(text)?;
    Ok(ExitCode::SUCCESS)
}
