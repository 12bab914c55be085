//! `ferry create`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::super::{Global, output};
use super::flags::ContainerFlags;
use super::own_failure;
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
    // Docker tells options that make no sense, 125, from what cannot be made, 1.
    let wanted = match Wanted::of(args.flags, false) {
        Ok(wanted) => wanted,
        Err(fault) => return Ok(own_failure(fault)),
    };
    output::line(&make(wanted, global)?.id)?;
    Ok(ExitCode::SUCCESS)
}

/// What the options ask for.
pub struct Wanted {
    image: String,
    platform: Option<String>,
    cidfile: Option<PathBuf>,
    request: create::Request,
}

impl Wanted {
    /// Fails when they make no sense.
    pub fn of(flags: ContainerFlags, detached: bool) -> Result<Self, BoxFault> {
        let (image, platform, cidfile) = (flags.image().to_owned(), flags.platform.clone(), flags.cidfile.clone());
        Ok(Self { image, platform, cidfile, request: flags.resolve(detached)? })
    }
}

/// Makes the container, with its ID in the file that was asked for.
pub fn make(wanted: Wanted, global: &Global) -> Result<Container, BoxFault> {
    let store = global.store()?;
    let image = store.resolve(&wanted.image)?;
    if let Some(platform) = &wanted.platform {
        let is = image.config.platform();
        if !is.to_string().starts_with(platform.as_str()) {
            let why = format!("image {} is of the platform {is}, not {platform}", wanted.image);
            return Err(RuntimeError::NotFound(why).into());
        }
    }
    // The file is taken first: a container whose ID nobody learns is of no use.
    let file = match &wanted.cidfile {
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
    let made = create::create(&store, &image, wanted.request, &global.ctx).map_err(BoxFault::from);
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
