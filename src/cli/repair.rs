//! `ferry repair`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::plural::counted;
use super::{Global, output};
use crate::base::BoxFault;
use crate::ops::repair;

/// Mend a damaged bundle from its parity
///
/// Damaged and missing volumes are written anew, bit for bit as they were, and take the place of the damaged ones when
/// they are whole; no other file is replaced. When there is more damage than parity nothing is written, and what is lost is
/// named.
#[derive(Debug, Args)]
pub struct RepairArgs {
    /// A bundle: its directory, any of its volumes, or several
    #[arg(required = true, value_name = "BUNDLE")]
    paths: Vec<PathBuf>,
    /// Write the mended volumes into this directory instead, which is made, and leave the damaged ones
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Repairs.
pub fn run(args: RepairArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let (report, written) = repair::repair(&args.paths, args.output.as_deref(), &global.ctx)?;
    let mut text = String::new();
    for path in &written {
        text += &format!("Repaired: {}\n", output::field(&path.display().to_string()));
    }
    if written.is_empty() {
        text += "The bundle is intact.\n";
    } else {
        text += &format!(
            "{} and {} brought back\n",
            counted(report.lost_blocks, "block"),
            counted(report.lost_parity, "parity block")
        );
    }
    output::print(text)?;
    Ok(ExitCode::SUCCESS)
}
