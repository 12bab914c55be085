//! `ferry cp`.

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::super::Global;
use super::super::render::human;
use super::containers;
use crate::base::{AtPath, BoxFault};
use crate::layer::{Marks, Owners};
use crate::runtime::container::{Container, ContainerDir};
use crate::runtime::copy::{self, Borders, Image, Owner, Place, Root, Source};
use crate::runtime::{RuntimeError, events, user};
use crate::sys::dir::Dir;

/// Copy files between a container and this host
///
/// One of the two paths is CONTAINER:PATH. A path of - is a tar stream, from standard input or to standard output.
#[derive(Debug, Args)]
pub struct CpArgs {
    /// Give the copies to the container's user, or on this host to whom the originals belong to
    #[arg(short, long)]
    archive: bool,
    /// Copy what a symbolic link at SOURCE leads to
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Say nothing when it is done
    #[arg(short, long)]
    quiet: bool,
    /// What is copied
    #[arg(value_name = "[CONTAINER:]SOURCE")]
    source: String,
    /// Where to
    #[arg(value_name = "[CONTAINER:]TARGET")]
    target: String,
}

/// A container and a path in it, or a path of this host: docker's rules.
fn split(text: &str) -> (Option<&str>, &str) {
    if text.starts_with(['/', '.']) {
        return (None, text);
    }
    match text.split_once(':') {
        Some((container, path)) => (Some(container), path),
        None => (None, text),
    }
}

/// Copies.
pub fn run(args: CpArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let (from, source) = split(&args.source);
    let (to, target) = split(&args.target);
    let name = match (from, to) {
        (Some(_), Some(_)) => return Err(RuntimeError::usage("copying between containers is not supported").into()),
        (None, None) => return Err(RuntimeError::usage("must specify at least one container source").into()),
        (Some(name), None) | (None, Some(name)) => name,
    };
    if source.is_empty() || target.is_empty() {
        return Err(RuntimeError::usage("the source and the target of a copy cannot be empty").into());
    }
    // Looked at before this process leaves its mounts and its working directory.
    let host = Host { root: Dir::open("/")?, here: std::env::current_dir().at("find", ".")? };
    let dir = containers(global).find(name)?;
    let container = dir.container()?;
    let action = if from.is_some() { "archive-path" } else { "extract-to-dir" };
    events::record(&global.root, &container, action, &[]);
    let owners = match (from, target) {
        (Some(_), "-") => owners(&dir, global)?,
        _ => None,
    };
    let root = Root::open(&std::path::absolute(&global.root).at("resolve", &global.root)?, &dir, &container)?;
    let bytes = match (from, source, target) {
        (Some(_), path, "-") => {
            if std::io::stdout().is_terminal() {
                return Err(RuntimeError::usage("cowardly refusing to write a tar to a terminal: redirect it").into());
            }
            let mut source = Source::find(&root.dir, Path::new(path), args.follow_link)?;
            if let (true, Some(name)) = (args.follow_link, &source.name) {
                // As docker: in a stream what a link leads to has its own name.
                source.base.clone_from(name);
            }
            let image = match owners {
                Some((owners, own)) => Some(Image::new(owners, own, &root.dir, &source)?),
                None => None,
            };
            let borders = Borders::new(&container, &root.dir, &source)?;
            copy::write(&source, &borders, image, &mut std::io::stdout().lock(), &global.ctx)?;
            return Ok(ExitCode::SUCCESS);
        }
        (Some(_), path, target) => {
            let source = Source::find(&root.dir, Path::new(path), args.follow_link)?;
            let place = Place::find(&host.root, &host.path(target), &source)?;
            let owner = if args.archive { Owner::Kept } else { Owner::Own };
            copy::into(&source, &place, owner, Some(&Borders::new(&container, &root.dir, &source)?), &global.ctx)?
        }
        (None, "-", target) => {
            let into = Place::directory(&root.dir, Path::new(target))?;
            let owner = owner(args.archive, &root, &container)?;
            copy::extract(&root.dir, &into, std::io::stdin(), owner, &global.ctx)?
        }
        (None, path, target) => {
            let source = Source::find(&host.root, &host.path(path), args.follow_link)?;
            let place = Place::find(&root.dir, Path::new(target), &source)?;
            copy::into(&source, &place, owner(args.archive, &root, &container)?, None, &global.ctx)?
        }
    };
    if !args.quiet && std::io::stderr().is_terminal() {
        eprintln!("Successfully copied {} to {}", human::size(bytes, 3), args.target);
    }
    Ok(ExitCode::SUCCESS)
}

/// This host's files, as this process saw them first.
struct Host {
    root: Dir,
    here: PathBuf,
}

impl Host {
    /// An absolute path that ends as the one typed does.
    fn path(&self, text: &str) -> PathBuf {
        let path = self.here.join(text);
        match text {
            "." => self.here.join("./."),
            _ => path,
        }
    }
}

type Known = (Owners, (Dir, Marks));

/// Whose the files of the container's image are, and its own layer, where the disk cannot say.
fn owners(dir: &ContainerDir, global: &Global) -> Result<Option<Known>, BoxFault> {
    let store = global.store()?;
    let layer = store.rw_layer(dir.id())?;
    let marks = Marks { userxattr: store.options().userxattr };
    Ok(match store.owners(layer.parent)? {
        Some(owners) => Some((owners, (Dir::open(&layer.upper)?, marks))),
        None => None,
    })
}

/// In a container files keep their owners by number, as with docker, unless they are to be its user's.
fn owner(archive: bool, root: &Root, container: &Container) -> Result<Owner, RuntimeError> {
    if !archive || container.config.user.is_empty() {
        return Ok(Owner::Kept);
    }
    let opened = root.dir.as_fd().try_clone_to_owned().at("open", root.dir.path())?;
    let user = user::resolve(&opened, &container.config.user, &[])?;
    Ok(Owner::Fixed(user.uid, user.gid))
}
