//! What can be wrong with a bundle.

use std::io;

use crate::base::error::class_of_io;
use crate::base::{BoxFault, Class, Digest, Fault};

/// An error of the objects, recipes and index of a bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Bytes that break the format's rules.
    #[error("{place}: {what}")]
    Malformed {
        /// Where: "index, section 4", "recipe of layer sha256:…".
        place: String,
        /// Which rule.
        what: String,
    },
    /// Bytes that are not those their checksum promises.
    #[error("{place}: the bytes are not those the checksum promises: it is damaged")]
    Damaged {
        /// Where.
        place: String,
    },
    /// Not a bundle.
    #[error("not a ferry bundle: {what}")]
    NotABundle {
        /// Why.
        what: &'static str,
    },
    /// Written by a ferry whose format this one cannot read.
    #[error("the bundle needs a newer ferry: it uses {what}")]
    Newer {
        /// What this reader does not know.
        what: String,
    },
    /// The bundle does not hold it.
    #[error("the bundle has no {what}")]
    Absent {
        /// "layer sha256:…".
        what: String,
    },
    /// A thin bundle's base is not there.
    #[error(
        "this is a thin bundle and {missing} it needs {verb} not here; it was written against {bases}: load that first \
         where it is a bundle; where it is an inventory or a site that bundles are sent to, this host needs one that is whole",
        verb = if *.count == 1 { "is" } else { "are" }
    )]
    BaseMissing {
        /// "layer sha256:…", "3 of 200 contents".
        missing: String,
        /// How many are missing.
        count: usize,
        /// The bases' labels.
        bases: String,
    },
    /// A source gave a layer other bytes than its digest promises.
    #[error("{expected} has other content: its digest is {got}")]
    Digest {
        /// What it is called.
        expected: Digest,
        /// What it is.
        got: Digest,
    },
    /// A source gave other bytes the second time.
    #[error("{what} changed while it was being read")]
    Changed {
        /// A content, with its layer.
        what: String,
    },
    /// Reading or writing failed.
    #[error("cannot {action}: {source}")]
    Io {
        /// "read frame 3", "write the bundle".
        action: String,
        /// Why.
        source: io::Error,
    },
}

impl BundleError {
    /// A broken rule at a place.
    pub(crate) fn malformed(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Malformed { place: place.into(), what: what.into() }
    }

    /// For readers of layers: bad input stays told apart from a failing disk.
    pub(crate) fn into_io(self) -> io::Error {
        match self {
            Self::Io { source, .. } => source,
            bad => io::Error::new(io::ErrorKind::InvalidData, BoxFault::from(bad)),
        }
    }
}

impl Fault for BundleError {
    fn class(&self) -> Class {
        match self {
            Self::Malformed { .. } | Self::NotABundle { .. } => Class::Malformed,
            Self::Damaged { .. } => Class::Integrity,
            Self::Newer { .. } => Class::Unsupported,
            Self::Absent { .. } | Self::BaseMissing { .. } => Class::NotFound,
            Self::Digest { .. } | Self::Changed { .. } => Class::Integrity,
            Self::Io { source, .. } => class_of_io(source),
        }
    }
}

/// Says what was being done when an I/O error came.
pub(crate) trait Doing<T> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, BundleError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, BundleError> {
        self.map_err(|source| BundleError::Io { action: action(), source })
    }
}
