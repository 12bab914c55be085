//! `ferry diff`.

use std::process::ExitCode;

use clap::Args;

use super::super::{Global, output};
use super::containers;
use crate::base::{AtPath, BoxFault};
use crate::runtime::init::rootfs;
use crate::runtime::{changes, overlay};
use crate::sys::dir::Dir;
use crate::sys::process::unshare;

/// Show what a container changed: A added, C changed, D deleted
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// A name or an ID
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Shows.
pub fn run(args: DiffArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    show(&args.container, global)
}

/// Shows what the container of a name changed.
pub fn show(name: &str, global: &Global) -> Result<ExitCode, BoxFault> {
    let dir = containers(global).find(name)?;
    let root = std::path::absolute(&global.root).at("resolve", &global.root)?;
    let store = global.store()?;
    let upper = Dir::open(std::path::absolute(store.rw_layer(dir.id())?.upper).at("resolve", &root)?)?;
    // This process is alone with the mount, and takes it along when it ends.
    unshare(libc::CLONE_NEWNS).at("separate mounts for", &root)?;
    rootfs::leave_propagation()?;
    let lower = Dir::open(overlay::mount_lower(&root, &dir)?)?;
    let changes = changes::between(&upper, Some(&lower), store.options().userxattr, &global.ctx)?;
    let line = |(path, change): &(std::path::PathBuf, changes::Change)| {
        output::clean(&format!("{} {}", change.letter(), path.display())).replace('\n', "\u{fffd}") + "\n"
    };
    output::print(changes.iter().map(line).collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}
