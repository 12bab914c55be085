//! `ferry inventory`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::Global;
use crate::base::{BoxFault, durable};
use crate::ops::base;

/// Write down what this host has, for bundles that leave it out
///
/// Carry the file to where bundles are made: `ferry save --base FILE -o new.ferry …` then leaves out every layer and
/// file that is in it. It holds IDs alone, 16 bytes a file.
#[derive(Debug, Args)]
pub struct InventoryArgs {
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// What bundles call this host when something is missing [default: the file's name]
    #[arg(long, value_name = "NAME")]
    label: Option<String>,
}

/// Writes it.
pub fn run(args: InventoryArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let store = global.store()?;
    let own = args.output.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let inventory = base::inventory(&store, args.label.unwrap_or(own), &global.ctx)?;
    durable::write(&args.output, &inventory.encode()?, 0o644)?;
    Ok(ExitCode::SUCCESS)
}
