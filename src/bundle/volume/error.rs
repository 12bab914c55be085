//! What can be wrong with a volume set.

use std::io;
use std::path::PathBuf;

use crate::base::{BoxFault, Class, Fault, Interrupted, PathError};

/// Why a set cannot be written, opened, read or repaired.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A file operation failed.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Writing to the pipe failed.
    #[error("cannot write the bundle: {0}")]
    Pipe(#[source] io::Error),
    /// The user ended the work.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// Not the head, frame or record of a volume.
    #[error("{}: {what}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        what: String,
    },
    /// A later container version.
    #[error("{} has container version {version}: a later ferry wrote it, this one reads version 1", .path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version.
        version: u16,
    },
    /// No volume where one was expected.
    #[error("{} is no ferry bundle, and no volume of one", .path.display())]
    NotAVolume {
        /// The file or directory.
        path: PathBuf,
    },
    /// Something that can only be read forward where a file is needed.
    #[error("{} is no file, and cannot be read at any place: save what it gives to a file first, and name that", .path.display())]
    NoFile {
        /// A pipe or a device.
        path: PathBuf,
    },
    /// Volumes of several sets, each by its name.
    #[error("the files that were named are of {} bundles: name those of one ({})", .sets.len(), .sets.join("; "))]
    NamedSets {
        /// One file of each.
        sets: Vec<String>,
    },
    /// Volumes of several sets.
    #[error("{} holds volumes of {} bundles: name a file of the one that is meant ({})", .path.display(), .sets.len(), .sets.join("; "))]
    MixedSets {
        /// The directory, or the first file of a list.
        path: PathBuf,
        /// One file of each.
        sets: Vec<String>,
    },
    /// Two versions of one set.
    #[error("{} and {} are of two versions of one bundle: keep the volumes of one version together", .one.display(), .other.display())]
    TwoVersions {
        /// A volume.
        one: PathBuf,
        /// A volume that contradicts it.
        other: PathBuf,
    },
    /// Volumes that are needed and not there.
    #[error("{} of the {total} volumes of {} missing: {}", number_of(.missing.len()), .near.display(), .missing.join(", "))]
    Missing {
        /// A volume that is there.
        near: PathBuf,
        /// How many data volumes the set has.
        total: u32,
        /// The names of those that are not.
        missing: Vec<String>,
    },
    /// A volume that ends too early or too late.
    #[error("{} has {got} bytes where {expected} belong: {}", .path.display(), if .got < .expected { "it is cut off" } else { "something is appended" })]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes by the layout.
        expected: u64,
        /// Bytes found.
        got: u64,
    },
    /// A set that was not written to its end.
    #[error("{} was not written to its end: write it again with --resume", .path.display())]
    Unfinished {
        /// The file.
        path: PathBuf,
    },
    /// No volume has its record.
    #[error("{} has no intact record at its end (cut off, or damaged there), and no other volume of its set is there to give it", .path.display())]
    NoRecord {
        /// The file.
        path: PathBuf,
    },
    /// A damaged place where only good bytes will do.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// More damage than parity.
    #[error("cannot be repaired: {0}")]
    Lost(String),
    /// The volumes lie where nothing can be written.
    #[error("{source}; `ferry repair -o DIR` writes the mended volumes elsewhere")]
    Closed {
        /// What could not be created.
        source: PathError,
    },
    /// Repaired blocks have not the promised hashes.
    #[error("the parity disagrees with the checksums at {0}: nothing was repaired")]
    ParityDisagrees(String),
    /// Writing cannot be done as asked.
    #[error("{0}")]
    Unsuitable(String),
    /// Something is in the way.
    #[error("{} exists already", .path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Repair would replace something that is no volume of the set.
    #[error(
        "{} has the name of volume {number}, and is not that volume of this bundle: move it away, or write the mended \
         volumes elsewhere with `ferry repair -o DIR`",
        .path.display()
    )]
    InTheWay {
        /// The file.
        path: PathBuf,
        /// The volume.
        number: u32,
    },
    /// Another file system lies where the medium was.
    #[error("{}: the medium was taken away or unmounted while it was written", .path.display())]
    Gone {
        /// The file that was to be written.
        path: PathBuf,
    },
    /// The set as it is does not match what `--resume` would write.
    #[error("{} differs from what would be written: it is finished, and of something else; give another name, or delete it", .path.display())]
    Differs {
        /// The file.
        path: PathBuf,
    },
    /// What `--resume` or a copy finds finished is damaged.
    #[error("{} is there already, and damaged: mend it with `ferry repair`, or delete it and start again", .path.display())]
    DamagedThere {
        /// The file.
        path: PathBuf,
    },
    /// Signing failed.
    #[error("cannot sign the bundle: {0}")]
    Sign(Box<dyn Fault>),
}

fn number_of(n: usize) -> String {
    if n == 1 { "one".into() } else { n.to_string() }
}

impl VolumeError {
    /// A signing failure.
    pub fn sign(fault: BoxFault) -> Self {
        Self::Sign(fault)
    }
}

impl Fault for VolumeError {
    fn class(&self) -> Class {
        match self {
            Self::Path(error) | Self::Closed { source: error } => error.class(),
            Self::Pipe(error) => crate::base::error::class_of_io(error),
            Self::Interrupted(_) => Class::Interrupted,
            Self::Malformed { .. } | Self::NotAVolume { .. } => Class::Malformed,
            Self::Version { .. } => Class::Unsupported,
            Self::MixedSets { .. }
            | Self::NamedSets { .. }
            | Self::TwoVersions { .. }
            | Self::Exists { .. }
            | Self::InTheWay { .. }
            | Self::Differs { .. } => Class::Conflict,
            Self::Missing { .. } => Class::NotFound,
            Self::NoRecord { .. }
            | Self::Length { .. }
            | Self::Damaged(_)
            | Self::DamagedThere { .. }
            | Self::Lost(_)
            | Self::ParityDisagrees(_)
            | Self::Unfinished { .. } => Class::Integrity,
            Self::Gone { .. } => Class::System,
            Self::Unsuitable(_) | Self::NoFile { .. } => Class::Usage,
            Self::Sign(fault) => fault.class(),
        }
    }
}

/// A block that is not what its table promises; travels inside an [`io::Error`] through [`crate::base::read_at::ReadAt`].
#[derive(Debug, Clone, thiserror::Error)]
#[error("{} is damaged at byte {offset} ({len} bytes): run `ferry verify` to see what can be repaired", .path.display())]
pub struct Damaged {
    /// The volume.
    pub path: PathBuf,
    /// The block's first byte in it.
    pub offset: u64,
    /// The block's length in bytes.
    pub len: u64,
}

impl Fault for Damaged {
    fn class(&self) -> Class {
        Class::Integrity
    }
}

impl From<Damaged> for io::Error {
    fn from(damaged: Damaged) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, BoxFault::from(damaged))
    }
}
