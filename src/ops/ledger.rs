//! What other sites were sent: the base of the next bundle for a site that sends nothing back.
//!
//! A ledger is an inventory at `ferry/sites/<site>` of the sending store, written when the bundle is.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::base::{AtPath, BoxFault, Class, Ctx, Fault, PathError, caps, durable};
use crate::bundle::index::INDEX_BYTES;
use crate::bundle::volume::VolumeSet;
use crate::bundle::{BundleError, Inventory, KnownBase};
use crate::image::Image;
use crate::store::Store;
use crate::sys::lock::{FileLock, LockKind};

/// The longest name of a site, in bytes.
const NAME_BYTES: usize = 200;

/// A site's name that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no name for a site: letters, digits, dots, dashes and underscores make one")]
pub struct SiteName(String);

impl Fault for SiteName {
    fn class(&self) -> Class {
        Class::Usage
    }
}

/// What is wrong with what was noted of a site.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The ledger does not say what was sent.
    #[error(
        "the ledger of site {site}, {}, cannot be used: {source}; `ferry inventory --forget-site {site}` drops it, and \
         the site's next bundle is whole",
        .path.display()
    )]
    Unusable {
        /// The site.
        site: String,
        /// The ledger.
        path: PathBuf,
        /// Why.
        source: BundleError,
    },
    /// A bundle that was sent, or is yet to be, has the name of the next.
    #[error(
        "{} is a bundle, and site {site} counts on what it was sent: the next one leaves that out and would replace it; \
         give another name, or make the next one whole with `ferry inventory --forget-site {site}`",
        .path.display()
    )]
    Replaces {
        /// The site.
        site: String,
        /// The file.
        path: PathBuf,
    },
    /// There is no ledger.
    #[error("nothing was noted of site {site}: there is no {}", .path.display())]
    Absent {
        /// The site.
        site: String,
        /// Where it would be.
        path: PathBuf,
    },
}

impl Fault for LedgerError {
    fn class(&self) -> Class {
        match self {
            Self::Unusable { source, .. } => source.class(),
            Self::Replaces { .. } => Class::Conflict,
            Self::Absent { .. } => Class::NotFound,
        }
    }
}

/// What one site was sent. While it is open nobody else writes a bundle for that site.
pub struct Ledger {
    path: PathBuf,
    inventory: Inventory,
    /// The hash of the file as it is; nothing was sent when there is none.
    identity: Option<[u8; 32]>,
    _lock: FileLock,
}

impl Ledger {
    /// Opens the ledger of a site; an empty one when nothing was sent.
    pub fn open(store: &Store, site: &str) -> Result<Self, BoxFault> {
        let path = path(store, site)?;
        let _lock = lock(store, site)?;
        let empty = Inventory { label: site.to_owned(), ..Inventory::default() };
        let (inventory, identity) = match File::open(&path) {
            Ok(mut file) => {
                let bytes = caps::read_all(&mut file, INDEX_BYTES, "a ledger").at("read", &path)?;
                let unusable = |source| LedgerError::Unusable { site: site.to_owned(), path: path.clone(), source };
                (Inventory::parse(&bytes).map_err(unusable)?, Some(*blake3::hash(&bytes).as_bytes()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => (empty, None),
            Err(error) => Err(error).at("open", &path)?,
        };
        Ok(Self { path, inventory, identity, _lock })
    }

    /// What was sent, as a base to write against; none when nothing was.
    pub fn base(&self) -> Option<KnownBase> {
        self.identity.map(|identity| self.inventory.as_base(identity))
    }

    /// Fails when the next bundle, which leaves out what earlier ones held, would take the place of a bundle at `path`: it
    /// may be one of those, and not have left.
    pub fn spares(&self, path: &Path) -> Result<(), LedgerError> {
        let is_bundle = || File::open(path).is_ok_and(VolumeSet::recognises_file);
        if self.identity.is_some() && path.is_file() && is_bundle() {
            return Err(LedgerError::Replaces { site: self.inventory.label.clone(), path: path.to_owned() });
        }
        Ok(())
    }

    /// Adds images that a bundle for the site now holds.
    pub fn record(mut self, store: &Store, images: &[Image], ctx: &Ctx) -> Result<(), BoxFault> {
        for layer in images.iter().flat_map(|image| &image.layers) {
            ctx.check()?;
            if self.inventory.layers.insert(layer.diff_id) {
                store.contents(&layer.diff_id)?.iter().for_each(|(id, ..)| self.inventory.add(id));
            }
        }
        Ok(durable::write(&self.path, &self.inventory.encode()?, 0o600)?)
    }
}

/// Forgets what a site was sent, so that the next bundle for it is whole again. The ledger need not be readable.
pub fn forget(store: &Store, site: &str) -> Result<(), BoxFault> {
    let path = path(store, site)?;
    if path.symlink_metadata().is_err() {
        return Err(LedgerError::Absent { site: site.to_owned(), path }.into());
    }
    let _lock = lock(store, site)?;
    std::fs::remove_file(&path).at("remove", &path)?;
    Ok(durable::sync_dir(&store.layout().sites())?)
}

/// Waits until nobody else writes a bundle for the site.
fn lock(store: &Store, site: &str) -> Result<FileLock, PathError> {
    let directory = store.layout().sites();
    match std::fs::create_dir(&directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error).at("create", &directory)?,
        _ => {}
    }
    let lock = directory.join(format!(".{site}.lock"));
    let file = File::options().create(true).truncate(false).write(true).open(&lock).at("open", &lock)?;
    FileLock::wait(file, LockKind::Exclusive).at("lock", &lock)
}

fn path(store: &Store, site: &str) -> Result<PathBuf, SiteName> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if site.is_empty() || site.len() > NAME_BYTES || site.starts_with('.') || !site.bytes().all(plain) {
        return Err(SiteName(site.to_owned()));
    }
    Ok(store.layout().sites().join(site))
}
