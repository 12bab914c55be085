//! `ferry export`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::super::{Global, output};
use super::containers;
use crate::base::{AtPath, BoxFault};
use crate::layer::diff::{self, DiffOptions, Tree};
use crate::runtime::init::rootfs;
use crate::runtime::{RuntimeError, events, overlay};
use crate::sys::dir::Dir;
use crate::sys::process::unshare;

/// Write a container's file system as a tar
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Where to; standard output otherwise
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// A name or an ID
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Exports.
pub fn run(args: ExportArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let dir = containers(global).find(&args.container)?;
    if args.output.is_none() && std::io::stdout().is_terminal() {
        return Err(RuntimeError::usage("cowardly refusing to save to a terminal: use -o or redirect").into());
    }
    let root = std::path::absolute(&global.root).at("resolve", &global.root)?;
    // Mounting changes the working directory.
    let output = args.output.map(|path| std::path::absolute(&path).at("resolve", &path)).transpose()?;
    events::record(&root, &dir.container()?, "export", &[]);
    // This process is alone with the mount, and takes it along when it ends.
    unshare(libc::CLONE_NEWNS).at("separate mounts for", &root)?;
    rootfs::leave_propagation()?;
    let view = overlay::mount_view(&root, &dir)?;
    let view = Dir::open(&view)?;
    output::write(output.as_deref(), 0o600, |out| {
        diff::write(&view, out, &DiffOptions { tree: Tree::Whole, latest: None }, &global.ctx)
    })
}
