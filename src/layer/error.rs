//! What can be wrong with a layer.

use std::path::PathBuf;

use super::tar::TarError;
use crate::base::{Class, Fault, Interrupted, PathError};

/// A layer that cannot be unpacked, taken apart or put together.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The tar stream.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// The disk.
    #[error(transparent)]
    Path(#[from] PathError),
    /// An entry's name leads out of the layer.
    #[error("the layer's entry {0:?} leads out of the layer")]
    Escape(String),
    /// An entry's name is too long, empty, or goes through something that is no directory.
    #[error("the layer's entry {path:?} cannot be made: {reason}")]
    Name {
        /// The entry.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A hard link to nothing.
    #[error("the layer's entry {path:?} is a hard link to {target:?}, which is not in the layer before it")]
    LinkTarget {
        /// The entry.
        path: String,
        /// Where it points.
        target: String,
    },
    /// A file of an unpacked layer has other bytes than it had.
    #[error("{} was changed since the layer was unpacked", .0.display())]
    Changed(PathBuf),
    /// The list of contents and the tar-split are not of one layer.
    #[error("the list of contents does not belong to the layer")]
    Contents,
    /// The user ended it.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

impl Fault for LayerError {
    fn class(&self) -> Class {
        match self {
            Self::Tar(error) => error.class(),
            Self::Path(error) => error.class(),
            Self::Escape(_) | Self::Name { .. } | Self::LinkTarget { .. } => Class::Malformed,
            Self::Changed(_) | Self::Contents => Class::Integrity,
            Self::Interrupted(_) => Class::Interrupted,
        }
    }
}

/// A path for a message: lossy, and of bearable length.
pub(super) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(300).collect()
}
