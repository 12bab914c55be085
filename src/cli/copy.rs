//! `ferry copy`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::medium_options::MediumArgs;
use super::plural::counted;
use super::{Global, output};
use crate::base::BoxFault;
use crate::bundle::volume::VolumeSet;
use crate::ops::{media, repair};

/// Copy a bundle to another medium, going on where an interrupted copy ended
///
/// Every byte is checked as it is read. Volumes and parts of volumes that are at the destination already are compared,
/// not written again. A removable medium is checked for room first, and everything is read back from it; the volumes of
/// one bundle may go onto several media.
#[derive(Debug, Args)]
pub struct CopyArgs {
    /// A bundle: its directory, or any of its volumes
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
    /// A directory, or for a bundle of one file the new file
    #[arg(value_name = "DEST")]
    to: PathBuf,
    #[command(flatten)]
    medium: MediumArgs,
}

/// Copies.
pub fn run(args: CopyArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let set = VolumeSet::open(&[args.bundle])?;
    let luggage = args.medium.luggage(&set.name())?;
    if args.medium.concerns(&args.to) {
        let spread = media::copy(&set, &args.to, luggage, &args.medium, &global.ctx)?;
        let on = if spread.media > 1 { format!(" on {} media", spread.media) } else { String::new() };
        output::line(format!(
            "{}{on}: {} bytes written, {} bytes were there",
            counted(spread.volumes, "volume"),
            spread.written,
            spread.there
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    let copied = repair::copy(&set, &args.to, luggage, &global.ctx)?;
    let text = format!(
        "{}: {} bytes written, {} bytes were there\n",
        counted(copied.files.len(), "volume"),
        copied.written,
        copied.there
    );
    output::print(text)?;
    Ok(ExitCode::SUCCESS)
}
