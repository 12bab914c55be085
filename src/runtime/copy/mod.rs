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

use super::cgroup::in_user_namespace;
use super::error::RuntimeError;
use crate::base::PathError;
use crate::sys::dir::{Kind, Metadata};

/// Two descriptors a level are held open.
const DEEPEST: usize = 400;

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
