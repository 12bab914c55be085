//! The overlay2 store: Docker's own layout, byte-compatible, with a `ferry/` folder beside it for what Docker does not
//! keep. `docs/format/store.md` has the layout, the order of writes and what a reader rejects.

mod containers;
mod contents;
mod error;
mod files;
mod fsck;
mod guard;
mod imagedb;
mod images;
mod journal;
mod layerdb;
mod layout;
mod leftovers;
mod locks;
mod manifests;
mod names;
mod originals;
mod overlay;
mod owners;
mod packed;
mod pins;
mod plan;
mod prune;
mod references;
mod remove;
mod sink;
mod source;
mod transaction;
mod unpack;
pub mod usage;

use std::path::{Path, PathBuf};

pub use containers::{InitLayer, RwLayer};
pub use error::StoreError;
pub use fsck::{Depth, Finding, Kind as FindingKind, Repair};
pub use images::StoredImage;
pub use layerdb::LayerRecord;
pub use layout::{CacheId, Layout, LinkName};
pub use locks::Using;
pub use names::{Conflict, NameChange};
pub use pins::Pin;
pub use plan::{LoadPlan, Origin, PlannedImage, PlannedLayer};
pub use prune::{PruneOptions, PruneReport};
pub use references::References;
pub use remove::{ContainerUse, Removed};
pub use sink::{LoadOptions, LoadReport, StoreSink};
pub use source::StoreSource;
pub use transaction::{Committed, Transaction};
pub use usage::{ImageUsage, Room, Usage};

use guard::Kind;

use crate::base::{AtPath, Ctx, durable};

/// The format version of the `ferry/` folder that this program reads and writes.
pub const VERSION: u32 = 1;

/// How a store's files belong to their owners. Mapping users is the caller's matter: a rootless caller is in a user
/// namespace of its own before it opens the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Overlay attributes are `user.overlay.*`: inside a user namespace.
    pub userxattr: bool,
    /// Only one user ID is mapped: owners live in the tar-split alone, and the store is ferry's alone.
    pub single_id: bool,
}

/// A store. Opening one holds no lock; each operation takes those it needs.
#[derive(Debug, Clone)]
pub struct Store {
    layout: Layout,
    options: Options,
}

impl Store {
    /// Opens the store, or the data-root of Docker's, at `root`. Nothing is created: where nothing is, the store is
    /// empty. Loads that had committed when their process died are finished if the directory can be written.
    ///
    /// Refuses what is neither ([`StoreError::NotAStore`]), another storage driver and containerd's image store.
    pub fn open(root: impl Into<PathBuf>, options: Options) -> Result<Self, StoreError> {
        let root = root.into();
        // Mounts and links are made from other working directories.
        let root = std::path::absolute(&root).at("resolve", &root)?;
        let kind = guard::recognise(&root)?;
        let store = Self { layout: Layout::new(root), options };
        if kind == Kind::Ferry {
            store.check_version()?;
            store.recover_if_possible()?;
        }
        Ok(store)
    }

    /// Opens the store at `root` and makes what is missing of it. Refuses a directory that a daemon works on.
    pub fn open_or_create(root: impl Into<PathBuf>, options: Options) -> Result<Self, StoreError> {
        let store = Self::open(root, options)?;
        let _out = store.prepare()?;
        Ok(store)
    }

    /// The store's directory, absolute.
    pub fn root(&self) -> &Path {
        self.layout.root()
    }

    /// Where things are in it.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// How its files belong to their owners.
    pub fn options(&self) -> Options {
        self.options
    }

    /// Makes the directory one that can be written: no daemon works on it, and all folders are there.
    fn prepare(&self) -> Result<guard::DaemonsOut, StoreError> {
        let out = guard::keep_daemons_out(self.layout.root())?;
        if self.layout.version().symlink_metadata().is_err() {
            self.layout.create()?;
            // The names first: a directory with a version file counts as complete.
            if self.layout.repositories().symlink_metadata().is_err() {
                References::default().write(&self.layout)?;
            }
            durable::write(&self.layout.version(), format!("{VERSION}\n").as_bytes(), 0o644)?;
        }
        Ok(out)
    }

    fn check_version(&self) -> Result<(), StoreError> {
        let path = self.layout.version();
        let found = files::line(&path)?.unwrap_or_default();
        if found == VERSION.to_string() { Ok(()) } else { Err(StoreError::Version { path, found, known: VERSION }) }
    }

    /// The names of all images, and those in the file that cannot be read.
    pub fn references(&self) -> Result<(References, Vec<String>), StoreError> {
        References::read(&self.layout)
    }

    /// Gives an image a name, by which it is saved with `manifest` when that is one of its own; the image that had the
    /// name before, when it was another.
    pub fn tag(
        &self,
        id: &crate::image::ImageId,
        name: &crate::image::Reference,
        manifest: Option<crate::base::Digest>,
        ctx: &Ctx,
    ) -> Result<Option<crate::image::ImageId>, StoreError> {
        let _writing = self.writer(ctx)?;
        if !imagedb::exists(&self.layout, id) {
            return Err(StoreError::NoImage(id.to_string()));
        }
        names::check(name)?;
        let (mut references, unreadable) = self.references()?;
        names::warn_unreadable(&unreadable, ctx);
        let before = references.set(name, *id, manifest);
        references.write(&self.layout)?;
        Ok(before)
    }

    /// Fails when what is unpacked could not be renamed to its place.
    fn check_undivided(&self) -> Result<(), StoreError> {
        use std::os::unix::fs::MetadataExt;
        let one = self.layout.staging();
        let device = |path: &Path| path.metadata().map(|metadata| metadata.dev()).at("look at", path);
        for other in [self.layout.overlay(), self.layout.layerdb(), self.layout.configs()] {
            if device(&one)? != device(&other)? {
                return Err(StoreError::Divided { one, other });
            }
        }
        Ok(())
    }

    /// Fails when fewer than `needed` bytes are free for a load.
    fn check_room(&self, needed: u64) -> Result<(), StoreError> {
        let path = self.layout.staging();
        let free = crate::sys::fs::room(&path).at("look at", &path)?.free;
        if needed <= free { Ok(()) } else { Err(StoreError::NoRoom { path, needed, free }) }
    }
}
