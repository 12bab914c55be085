//! What can go wrong in a store.

use std::path::PathBuf;

use crate::base::{BoxFault, Class, Digest, Fault, Interrupted, PathError};
use crate::image::{ChainId, DiffId, ImageId, Reference};

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The user ended the work.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// A layer could not be read, unpacked or put together again.
    #[error("{}{source}", .diff_id.map(|id| format!("layer {id}: ")).unwrap_or_default())]
    Layer {
        /// Which layer, where that is known before it is read.
        diff_id: Option<DiffId>,
        /// Why.
        source: BoxFault,
    },
    /// The place that images come from failed.
    #[error(transparent)]
    Source(BoxFault),
    /// No image of that name or ID.
    #[error("no such image: {0}")]
    NoImage(String),
    /// Several images have IDs that begin so.
    #[error("image ID {prefix} is ambiguous: it begins {}", .candidates.join(" and "))]
    Ambiguous {
        /// What was given.
        prefix: String,
        /// The full IDs it may mean.
        candidates: Vec<String>,
    },
    /// A layer that must be there is not.
    #[error("no such layer: {0}")]
    NoLayer(ChainId),
    /// No writable layer of that container.
    #[error("no such container layer: {0}")]
    NoContainer(String),
    /// The container has a writable layer already.
    #[error("container {0} has a writable layer already")]
    ContainerExists(String),
    /// A file of the store is not what it must be.
    #[error("{} is damaged: {reason} (`ferry fsck` tells more)", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A layer's tar has another digest than its config says.
    #[error("layer {expected} has other content: its diff ID is {got}")]
    WrongDiffId {
        /// What the config promises.
        expected: DiffId,
        /// What came.
        got: DiffId,
    },
    /// A layer's compressed bytes have another digest or size than their descriptor says.
    #[error("blob {expected} of {size} bytes has other content: {got} of {got_size} bytes")]
    WrongBlob {
        /// The descriptor's digest.
        expected: Digest,
        /// The descriptor's size in bytes.
        size: u64,
        /// What came.
        got: Digest,
        /// How much came, in bytes.
        got_size: u64,
    },
    /// Too little room for what is to be written.
    #[error("not enough room at {}: {needed} bytes are needed, {free} are free", .path.display())]
    NoRoom {
        /// Where.
        path: PathBuf,
        /// In bytes.
        needed: u64,
        /// In bytes.
        free: u64,
    },
    /// A name is taken by another image.
    #[error("{name} is image {current} already, not {wanted}")]
    NameTaken {
        /// The name.
        name: Box<Reference>,
        /// What it means now.
        current: ImageId,
        /// What it should have meant.
        wanted: ImageId,
    },
    /// Something still needs the image.
    #[error("conflict: unable to delete {image} ({}) - {reason}", if *.forcible { "must be forced" } else { "cannot be forced" })]
    InUse {
        /// The image's short ID.
        image: String,
        /// Who needs it.
        reason: String,
        /// Whether `force` gets over it.
        forcible: bool,
    },
    /// A container holds the reference that is to go.
    #[error(
        "conflict: unable to remove repository reference {reference:?} (must force) - container {container} is using its referenced image {image}"
    )]
    ReferenceInUse {
        /// As given.
        reference: String,
        /// The container's short ID.
        container: String,
        /// The image's short ID.
        image: String,
    },
    /// A dockerd or containerd works on this directory.
    #[error("{} is in use by a running {daemon} (it holds {})", .root.display(), .lock.display())]
    DaemonRuns {
        /// The directory.
        root: PathBuf,
        /// Which daemon.
        daemon: &'static str,
        /// The file it has locked.
        lock: PathBuf,
    },
    /// A Docker data-root whose images live in containerd.
    #[error("{} keeps its images in containerd's store, which ferry does not open: export them with `docker save` or `ctr images export`", .0.display())]
    ContainerdStore(PathBuf),
    /// A Docker data-root of another storage driver.
    #[error("{} uses Docker's storage driver {driver:?}; ferry opens overlay2 alone: export its images with `docker save`", .root.display())]
    Driver {
        /// The directory.
        root: PathBuf,
        /// The driver's name.
        driver: String,
    },
    /// Parts of the store are on file systems of their own, between which nothing can be renamed.
    #[error("{} and {} are on different file systems; a store must be on one", .one.display(), .other.display())]
    Divided {
        /// A directory.
        one: PathBuf,
        /// Another.
        other: PathBuf,
    },
    /// A directory that is not a store.
    #[error("{} is neither empty nor a store: {reason}", .root.display())]
    NotAStore {
        /// The directory.
        root: PathBuf,
        /// Why it cannot be one.
        reason: &'static str,
    },
    /// A store that a newer ferry wrote.
    #[error("{} has format version {found}; this ferry knows version {known}", .path.display())]
    Version {
        /// The version file.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What this program knows.
        known: u32,
    },
    /// A reference that cannot be stored under that name.
    #[error("{0}: not a name that an image can be given")]
    BadName(Box<Reference>),
    /// A name that no pin or ledger can have.
    #[error("{0}")]
    Pin(String),
    /// Several images of one load claim the same name.
    #[error("{name} is given to two images: {one} and {other}")]
    NameTwice {
        /// The name.
        name: Box<Reference>,
        /// One image.
        one: ImageId,
        /// The other.
        other: ImageId,
    },
    /// An image whose parts do not belong together.
    #[error("image {image} contradicts itself: {reason}")]
    Contradiction {
        /// The image.
        image: ImageId,
        /// What does not fit.
        reason: &'static str,
    },
    /// More layers than an overlay mount can stack.
    #[error("image {image} would have {layers} layers; {limit} is the most an overlay can stack")]
    TooManyLayers {
        /// The image.
        image: ImageId,
        /// How many.
        layers: usize,
        /// The limit.
        limit: usize,
    },
}

impl Fault for StoreError {
    fn class(&self) -> Class {
        match self {
            Self::Path(error) => error.class(),
            Self::Interrupted(error) => error.class(),
            Self::Layer { source, .. } | Self::Source(source) => source.class(),
            Self::NoImage(_) | Self::NoLayer(_) | Self::NoContainer(_) => Class::NotFound,
            Self::Ambiguous { .. }
            | Self::ContainerExists(_)
            | Self::NameTaken { .. }
            | Self::InUse { .. }
            | Self::ReferenceInUse { .. }
            | Self::NameTwice { .. } => Class::Conflict,
            Self::Damaged { .. } | Self::WrongDiffId { .. } | Self::WrongBlob { .. } => Class::Integrity,
            Self::NoRoom { .. } => Class::NoSpace,
            Self::DaemonRuns { .. } | Self::NotAStore { .. } => Class::Refused,
            Self::ContainerdStore(_) | Self::Driver { .. } | Self::Version { .. } | Self::Divided { .. } => {
                Class::Unsupported
            }
            Self::BadName(_) | Self::Pin(_) => Class::Usage,
            Self::TooManyLayers { .. } | Self::Contradiction { .. } => Class::Malformed,
        }
    }
}
