//! `ferry create`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::super::{Global, output};
use super::flags::values::NewVolume;
use super::flags::{ContainerFlags, check};
use super::{own_failure, platform};
use crate::base::{AtPath, BoxFault};
use crate::runtime::container::{Container, Containers};
use crate::runtime::{RuntimeError, create, volumes};

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
    volumes: Vec<NewVolume>,
    request: create::Request,
}

impl Wanted {
    /// Fails when they make no sense.
    pub fn of(flags: ContainerFlags, detached: bool) -> Result<Self, BoxFault> {
        let (image, platform, cidfile) = (flags.image().to_owned(), flags.platform.clone(), flags.cidfile.clone());
        let volumes = flags.new_volumes()?;
        Ok(Self { image, platform, cidfile, volumes, request: flags.resolve(detached)? })
    }
}

/// Makes the container, with its ID in the file that was asked for.
pub fn make(wanted: Wanted, global: &Global) -> Result<Container, BoxFault> {
    let store = global.store()?;
    let image = store.resolve(&wanted.image)?;
    let is = image.config.platform();
    match &wanted.platform {
        Some(platform) if !is.to_string().starts_with(platform.as_str()) => {
            let why = format!("image {} is of the platform {is}, not {platform}", wanted.image);
            return Err(RuntimeError::NotFound(why).into());
        }
        Some(_) => {}
        None => platform::warning(&is)
            .into_iter()
            .for_each(|text| eprintln!("WARNING: {}", text.replace(char::is_control, "\u{fffd}"))),
    }
    check::mounts(&wanted.request)?;
    check::links(&wanted.request, &Containers::new(store.root()))?;
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
    let mut volumes = wanted.volumes.into_iter();
    let made = volumes
        .try_for_each(|new| volumes::create(store.root(), &new.name, new.labels, new.options).map(drop))
        .and_then(|()| create::create(&store, &image, wanted.request, &global.ctx))
        .map_err(BoxFault::from);
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
