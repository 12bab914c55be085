//! `ferry container`.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::super::{Global, exit, output};
use super::containers;
use crate::base::BoxFault;
use crate::runtime::lifecycle;

/// Manage containers
#[derive(Debug, Args)]
pub struct ContainerArgs {
    #[command(subcommand)]
    command: ContainerCommand,
}

#[derive(Debug, Subcommand)]
enum ContainerCommand {
    /// Remove all containers that do not run
    Prune {
        /// Do not ask
        #[arg(short, long)]
        force: bool,
    },
}

/// Does it.
pub fn run(args: ContainerArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let ContainerCommand::Prune { force } = args.command;
    if !force {
        eprint!("WARNING! This will remove all stopped containers.\nAre you sure you want to continue? [y/N] ");
        let mut answer = String::new();
        let read = std::io::stdin().read_line(&mut answer);
        if read.is_err() || !answer.trim().eq_ignore_ascii_case("y") {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let mut code = ExitCode::SUCCESS;
    let mut removed = Vec::new();
    for (dir, container, state) in containers(global).all()? {
        if state.status.can_remove() {
            match lifecycle::rm(&global.root, &dir, false, false) {
                Ok(()) => removed.push(container.id),
                Err(error) => code = exit::report(&error),
            }
        }
    }
    if !removed.is_empty() {
        output::print(format!("Deleted Containers:\n{}\n", removed.join("\n")))?;
    }
    Ok(code)
}
