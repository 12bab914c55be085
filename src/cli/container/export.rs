//! `ferry export`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::super::{Global, output};
use super::containers;
use crate::base::{AtPath, BoxFault};
use crate::layer::diff::{self, DiffOptions, Tree};
use crate::runtime::{RuntimeError, events, lifecycle, overlay};

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
    events::record(&root, &dir.container()?, "export", &[]);
    let store = global.store()?;
    let layers = overlay::layers(&store, &dir)?;
    let owners = store.owners(store.rw_layer(dir.id())?.parent)?;
    let options =
        DiffOptions { tree: Tree::Merged, userxattr: store.options().userxattr, latest: None, owners: owners.as_ref() };
    output::write(args.output.as_deref(), 0o600, |out| {
        lifecycle::reading(&dir, "export", || diff::write(&layers, out, &options, &global.ctx))
    })
}
