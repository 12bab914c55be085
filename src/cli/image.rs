//! `ferry image`: docker's other names for the commands about images.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{Global, history, images, import, inspect, load, prune, rmi, save, tag};
use crate::base::BoxFault;

/// Manage images
#[derive(Debug, Args)]
pub struct ImageArgs {
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    History(history::HistoryArgs),
    Import(import::ImportArgs),
    Inspect(inspect::InspectArgs),
    Load(load::LoadArgs),
    #[command(visible_alias = "list")]
    Ls(images::ImagesArgs),
    Prune(prune::PruneArgs),
    #[command(visible_alias = "remove")]
    Rm(rmi::RmiArgs),
    Save(save::SaveArgs),
    Tag(tag::TagArgs),
}

/// Does it.
pub fn run(args: ImageArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    use ImageCommand as C;
    match args.command {
        C::History(args) => history::run(args, global),
        C::Import(args) => import::run(args, global),
        C::Inspect(args) => inspect::images_only(args, global),
        C::Load(args) => load::run(args, global),
        C::Ls(args) => images::run(args, global),
        C::Prune(args) => prune::run(args, global),
        C::Rm(args) => rmi::run(args, global),
        C::Save(args) => save::run(args, global),
        C::Tag(args) => tag::run(args, global),
    }
}
