//! What can be wrong with an archive: always with its path and, where there is one, the entry inside it.

use std::io;

use crate::base::caps::OverLimit;
use crate::base::error::class_of_io;
use crate::base::{Class, Digest, Fault, PathError};
use crate::image::config::ConfigError;
use crate::image::manifest::ManifestError;
use crate::image::reference::ReferenceError;
use crate::image::{ImageId, Platform};

/// Why an archive cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file operation failed.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Reading the archive failed, or what was read could not be decoded.
    #[error("{origin}: cannot read {entry}: {source}")]
    Read {
        /// The archive.
        origin: String,
        /// The entry, or "the archive".
        entry: String,
        /// What went wrong.
        source: io::Error,
    },
    /// Something else than an image archive.
    #[error("{origin} is not an image archive: {reason}")]
    NotAnArchive {
        /// The input.
        origin: String,
        /// What was found instead.
        reason: String,
    },
    /// A form of archive that ferry does not read.
    #[error("{origin}: {what} is not supported")]
    Unsupported {
        /// The archive.
        origin: String,
        /// The form.
        what: String,
    },
    /// The tar around the image is broken.
    #[error("{origin}: malformed tar at byte {offset}: {reason}")]
    Tar {
        /// The archive.
        origin: String,
        /// Where, in the uncompressed tar.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// An entry's path, or a link, leads out of the archive or round in circles.
    #[error("{origin}: entry {entry:?} {reason}")]
    Entry {
        /// The archive.
        origin: String,
        /// The entry.
        entry: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Something that is referred to is not there.
    #[error("{origin}: {entry} is missing; {needed_by} refers to it")]
    Missing {
        /// The archive.
        origin: String,
        /// The entry.
        entry: String,
        /// What refers to it.
        needed_by: String,
    },
    /// A document is not JSON, or of another shape.
    #[error("{origin}: {entry} is malformed: {source}")]
    Json {
        /// The archive.
        origin: String,
        /// The entry.
        entry: String,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// An entry's content is not what its name or descriptor promises.
    #[error("{origin}: {entry} has other content than promised: expected {expected}, found {found}")]
    Digest {
        /// The archive.
        origin: String,
        /// The entry.
        entry: String,
        /// The digest promised.
        expected: Digest,
        /// The digest found.
        found: Digest,
    },
    /// An entry has another size than its descriptor says.
    #[error("{origin}: {entry} has {found} bytes where its descriptor says {expected}")]
    Size {
        /// The archive.
        origin: String,
        /// The entry.
        entry: String,
        /// The size promised, in bytes.
        expected: u64,
        /// The size found, in bytes.
        found: u64,
    },
    /// A config and what lists the layers do not agree.
    #[error("{origin}: image {image} has {expected} layers by its config, but {found} are listed in {entry}")]
    LayerCount {
        /// The archive.
        origin: String,
        /// The image.
        image: ImageId,
        /// The config's number.
        expected: usize,
        /// The list's number.
        found: usize,
        /// The document with the list.
        entry: String,
    },
    /// A config that cannot be used.
    #[error("{origin}: {source}")]
    Config {
        /// The archive.
        origin: String,
        /// What is wrong.
        source: ConfigError,
    },
    /// A manifest that cannot be used.
    #[error("{origin}: {source}")]
    Manifest {
        /// The archive.
        origin: String,
        /// What is wrong.
        source: ManifestError,
    },
    /// A name that is none.
    #[error("{origin}: {entry}: {source}")]
    Name {
        /// The archive.
        origin: String,
        /// The document with the name.
        entry: String,
        /// What is wrong.
        source: ReferenceError,
    },
    /// No image for the platform that is wanted.
    #[error("{origin} has no image for {wanted}{of}; it has {}", list(.present))]
    Platform {
        /// The archive.
        origin: String,
        /// The platform.
        wanted: Box<Platform>,
        /// " of NAME", or nothing.
        of: String,
        /// The platforms there are.
        present: Vec<Platform>,
    },
    /// Several platforms, none of them this host's.
    #[error("{origin} has several platforms{of} and none is this host's: {}", list(.present))]
    AmbiguousPlatform {
        /// The archive.
        origin: String,
        /// " of NAME", or nothing.
        of: String,
        /// The platforms there are.
        present: Vec<Platform>,
    },
    /// Too large or too many.
    #[error("{origin}: {source}")]
    OverLimit {
        /// The archive.
        origin: String,
        /// What.
        source: OverLimit,
    },
    /// An input that cannot be seeked does not fit where it is kept meanwhile.
    #[error("{origin} does not fit into {directory}, where it is kept while it is read: {source}")]
    Spool {
        /// The input.
        origin: String,
        /// The directory.
        directory: String,
        /// What went wrong.
        source: io::Error,
    },
    /// Writing the archive failed.
    #[error("cannot write the archive: {source}")]
    Write {
        /// What went wrong.
        source: io::Error,
    },
    /// A blob that came from a source is not what the source promised.
    #[error("{origin}: {object}: {source}")]
    Source {
        /// The source.
        origin: String,
        /// The layer.
        object: String,
        /// What went wrong.
        source: io::Error,
    },
}

fn list(platforms: &[Platform]) -> String {
    let names: Vec<String> = platforms.iter().map(ToString::to_string).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

impl Fault for ArchiveError {
    fn class(&self) -> Class {
        match self {
            Self::Path(error) => error.class(),
            Self::Read { source, .. } | Self::Source { source, .. } | Self::Write { source } => class_of_io(source),
            Self::NotAnArchive { .. }
            | Self::Tar { .. }
            | Self::Entry { .. }
            | Self::Missing { .. }
            | Self::Json { .. }
            | Self::Size { .. }
            | Self::LayerCount { .. }
            | Self::Name { .. } => Class::Malformed,
            Self::Digest { .. } => Class::Integrity,
            Self::Config { source, .. } => source.class(),
            Self::Manifest { source, .. } => source.class(),
            Self::Platform { .. } | Self::AmbiguousPlatform { .. } => Class::NotFound,
            Self::OverLimit { source, .. } => source.class(),
            Self::Unsupported { .. } => Class::Unsupported,
            Self::Spool { source, .. } => match class_of_io(source) {
                Class::NotFound => Class::System,
                class => class,
            },
        }
    }
}
