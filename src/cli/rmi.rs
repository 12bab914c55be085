//! `ferry rmi`.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::{Global, exit, output};
use crate::base::{BoxFault, Class, Fault};
use crate::ops::uses;
use crate::runtime::events;
use crate::store::Removed;

/// Remove images
#[derive(Debug, Args)]
pub struct RmiArgs {
    /// Names or IDs
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Remove images that have several names, or that stopped containers use
    #[arg(short, long)]
    force: bool,
    /// Keep the untagged images that a removed one was built on
    #[arg(long)]
    no_prune: bool,
}

/// Removes what can be removed, then tells what cannot.
pub fn run(args: RmiArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let store = global.store()?;
    let containers = uses::of_images(&store)?;
    let mut code = ExitCode::SUCCESS;
    for image in &args.images {
        let id = store.resolve(image).map(|image| image.id().to_string()).unwrap_or_default();
        match store.remove(image, args.force, args.no_prune, &containers, &global.ctx) {
            Ok(removed) => {
                note(&global.root, &removed, |_| Some(id.clone()));
                output::print(lines(&removed))?;
            }
            // As docker: told, and no failure.
            Err(error) if args.force && error.class() == Class::NotFound => exit::tell(&error, None),
            Err(error) => code = exit::report(&error),
        }
    }
    Ok(code)
}

/// Notes what was removed as docker's events; `named` knows which image a name was.
pub fn note(root: &Path, removed: &[Removed], named: impl Fn(&str) -> Option<String>) {
    for one in removed {
        let (action, id) = match one {
            Removed::Untagged(name) => ("untag", named(&name.to_string())),
            Removed::Image(id) => ("delete", Some(id.to_string())),
            Removed::Layer(_) => continue,
        };
        if let Some(id) = id {
            events::record_image(root, action, &id, &id);
        }
    }
}

/// Docker's lines about what was removed.
pub fn lines(removed: &[Removed]) -> String {
    let line = |removed: &Removed| match removed {
        Removed::Untagged(name) => format!("Untagged: {name}\n"),
        Removed::Image(id) => format!("Deleted: {id}\n"),
        Removed::Layer(id) => format!("Deleted: {id}\n"),
    };
    removed.iter().map(line).collect()
}
