//! What other sites were sent: the base of the next bundle for a site that sends nothing back.
//!
//! A ledger is an inventory at `ferry/sites/<site>` of the sending store, written when the bundle is.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use crate::base::{AtPath, BoxFault, Class, Ctx, Fault, caps, durable};
use crate::bundle::index::INDEX_BYTES;
use crate::bundle::{Inventory, KnownBase};
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
        let directory = store.layout().sites();
        match std::fs::create_dir(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error).at("create", &directory)?,
            _ => {}
        }
        let lock = directory.join(format!(".{site}.lock"));
        let file = File::options().create(true).truncate(false).write(true).open(&lock).at("open", &lock)?;
        let _lock = FileLock::wait(file, LockKind::Exclusive).at("lock", &lock)?;
        let empty = Inventory { label: site.to_owned(), ..Inventory::default() };
        let (inventory, identity) = match File::open(&path) {
            Ok(mut file) => {
                let bytes = caps::read_all(&mut file, INDEX_BYTES, "a ledger").at("read", &path)?;
                (Inventory::parse(&bytes)?, Some(*blake3::hash(&bytes).as_bytes()))
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

/// Forgets what a site was sent, so that the next bundle for it is whole again. Whether anything was known.
pub fn forget(store: &Store, site: &str) -> Result<bool, BoxFault> {
    let path = path(store, site)?;
    if path.symlink_metadata().is_err() {
        return Ok(false);
    }
    let ledger = Ledger::open(store, site)?;
    std::fs::remove_file(&ledger.path).at("remove", &ledger.path)?;
    durable::sync_dir(&store.layout().sites())?;
    Ok(true)
}

fn path(store: &Store, site: &str) -> Result<PathBuf, SiteName> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if site.is_empty() || site.len() > NAME_BYTES || site.starts_with('.') || !site.bytes().all(plain) {
        return Err(SiteName(site.to_owned()));
    }
    Ok(store.layout().sites().join(site))
}
