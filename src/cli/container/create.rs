//! `ferry create`.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;

use super::super::{Global, output};
use super::flags::ContainerFlags;
use crate::base::{AtPath, BoxFault};
use crate::runtime::RuntimeError;
use crate::runtime::container::Container;
use crate::runtime::create;

/// Create a container
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct CreateArgs {
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    #[command(flatten)]
    flags: ContainerFlags,
}

/// Creates, and prints the ID.
pub fn run(args: CreateArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    output::line(&make(args.flags, false, global)?.id)?;
    Ok(ExitCode::SUCCESS)
}

/// Makes the container, with its ID in the file that was asked for.
pub fn make(flags: ContainerFlags, detached: bool, global: &Global) -> Result<Container, BoxFault> {
    let store = global.store()?;
    let image = store.resolve(flags.image())?;
    if let Some(wanted) = &flags.platform {
        let is = image.config.platform();
        if !is.to_string().starts_with(wanted.as_str()) {
            let why = format!("image {} is of the platform {is}, not {wanted}", flags.image());
            return Err(RuntimeError::NotFound(why).into());
        }
    }
    // The file is taken first: a container whose ID nobody learns is of no use.
    let file = match &flags.cidfile {
        Some(path) => {
            let taken = |_| {
                RuntimeError::Conflict(format!(
                    "container ID file {} exists: make sure the other container is not running or delete it",
                    path.display()
                ))
            };
            Some((std::fs::File::create_new(path).map_err(taken)?, path.clone()))
        }
        None => None,
    };
    let made = flags.resolve(detached).and_then(|request| Ok(create::create(&store, &image, request, &global.ctx)?));
    match (made, file) {
        (Ok(container), Some((mut file, path))) => {
            file.write_all(container.id.as_bytes()).at("write", &path)?;
            Ok(container)
        }
        (Err(fault), Some((_, path))) => {
            let _ = std::fs::remove_file(path);
            Err(fault)
        }
        (made, None) => made,
    }
}
