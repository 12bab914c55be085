//! `docker cp`: files between a container and the host, or a tar stream.
//!
//! Attack: the container swaps a directory for a symlink while this copies. Every step goes through descriptors: what is
//! named is looked up by the kernel with the container's root as `/`, and from there on each directory is opened from its
//! parent without following anything. Nothing of the host is ever named by a path that the container could change.

mod place;
mod root;
mod tar;
mod tree;

pub use place::{Place, Source};
pub use root::Root;
pub use tar::{Image, extract, write};
pub use tree::{Owner, into};

use std::path::{Path, PathBuf};

use super::cgroup::in_user_namespace;
use super::container::{Container, MountPoint};
use super::error::RuntimeError;
use crate::base::PathError;
use crate::sys::dir::{Dir, Kind, Metadata};

/// Two descriptors a level are held open.
const DEEPEST: usize = 400;

/// Where a copy out of a container ends: as docker's, it does not go on into the kernel's file systems (`/proc`, `/sys`,
/// `/dev`), nor into memory; only into what the user has mounted.
#[derive(Debug)]
pub struct Borders {
    /// Where the source is in the container.
    at: PathBuf,
    mounts: Vec<PathBuf>,
}

impl Borders {
    /// Of a source that is in `root`.
    pub fn new(container: &Container, root: &Dir, source: &Source) -> Result<Self, RuntimeError> {
        let inside = |mount: &MountPoint| mount.destination.trim_start_matches('/').into();
        Ok(Self { at: source.path_in(root)?, mounts: container.mounts.iter().map(inside).collect() })
    }

    /// Whether a directory at a path below the source is beyond one, seen from the directory above it.
    fn is_beyond(&self, path: &Path, directory: &Metadata, above: &Metadata) -> bool {
        if directory.st_dev == above.st_dev {
            return false;
        }
        // Joining nothing would end it in a slash.
        let inside: PathBuf = self.at.components().chain(path.components()).collect();
        !self.mounts.iter().any(|mount| inside.starts_with(mount))
    }
}

fn is_dir(metadata: &Metadata) -> bool {
    Kind::in_metadata(metadata) == Some(Kind::Directory)
}

/// A user namespace may not know an owner: what is that one's becomes this user's.
fn given(done: Result<(), PathError>) -> Result<(), PathError> {
    match done {
        Err(error) if error.source.raw_os_error() == Some(libc::EINVAL) && in_user_namespace() => Ok(()),
        done => done,
    }
}

fn too_deep() -> RuntimeError {
    RuntimeError::Unsupported(format!("directories are nested deeper than {DEEPEST} levels"))
}
