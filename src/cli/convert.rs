//! `ferry convert`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::Global;
use super::archive_options::ArchiveOptions;
use super::input_options::{InputBaseArgs, WindowArgs};
use super::trust::AccessArgs;
use crate::archive::{Input, OpenOptions};
use crate::base::BoxFault;
use crate::image::Platform;
use crate::ops::open;

/// Write the images of one archive as another, without a store
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// An archive, an OCI layout directory, or a bundle
    #[arg(value_name = "FROM")]
    from: PathBuf,
    /// The file to write
    #[arg(value_name = "TO")]
    to: PathBuf,
    /// The platform to take of images that are there for several [default: this host's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    #[command(flatten)]
    window: WindowArgs,
    /// Where layers are unpacked whose size must be known first [default: the directory for temporary files]
    #[arg(long, value_name = "DIR")]
    spool_dir: Option<PathBuf>,
    /// Mend a damaged bundle while it is read, as far as its parity goes
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    base: InputBaseArgs,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    archive: ArchiveOptions,
}

/// Converts.
pub fn run(args: ConvertArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    args.archive.check(Some(&args.to))?;
    let spool = args.spool_dir.unwrap_or_else(std::env::temp_dir);
    let open = OpenOptions { platform: args.platform, max_window: args.window.max_window, spool: spool.clone() };
    // The system's policy rules what comes into a store; nothing does here. One that is named is obeyed.
    let mut access = args.access.access(false, args.repair, spool.clone())?;
    access.limits = args.window.limits();
    if args.base.given() {
        access.base = Some(Arc::new(args.base.open(None, &access, &global.ctx)?));
    }
    let source = open::open(Input::Path(args.from), &open, &access, &global.ctx)?;
    // Nothing has proven what an archive holds.
    args.archive.write(&*source, source.images(), Some(&args.to), spool, true, &global.ctx)?;
    Ok(ExitCode::SUCCESS)
}
