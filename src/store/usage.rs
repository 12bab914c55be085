//! What takes how much room.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::error::StoreError;
use super::leftovers::Leftovers;
use super::{Store, StoredImage, containers, files, layerdb};
use crate::base::{AtPath, Ctx, PathError};
use crate::image::{ChainId, ImageId};

/// The room that a store takes. Sizes of layers are as docker counts them: the sum of their files' sizes in bytes.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// Newest first.
    pub images: Vec<ImageUsage>,
    /// All layers, each once.
    pub layers: Room,
    /// Compressed layers as they came.
    pub originals: Room,
    /// Writable layers of containers, as they lie on disk.
    pub containers: Vec<(String, u64)>,
    /// What a prune would take: layers and blobs that nothing needs.
    pub leftovers: Room,
    /// What loads under way, or dead ones, have written so far.
    pub staging: Room,
}

/// A number of things and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// How many.
    pub count: u64,
    /// How large.
    pub bytes: u64,
}

impl Room {
    fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// The room of one image.
#[derive(Debug, Clone)]
pub struct ImageUsage {
    /// The image.
    pub image: StoredImage,
    /// Bytes of layers that other images have as well.
    pub shared: u64,
    /// Bytes of layers that no other image has.
    pub unique: u64,
    /// Whether a container's writable layer stands on it, or on a layer of it.
    pub in_use: bool,
}

impl Usage {
    /// The bytes of layers that would go if all images without a container went.
    pub fn reclaimable(&self) -> u64 {
        let unused = self.images.iter().filter(|image| !image.in_use);
        unused.fold(self.leftovers.bytes, |sum, image| sum.saturating_add(image.unique))
    }
}

impl Store {
    /// Measures the store. Writable layers and staging directories are walked, the rest is noted already.
    pub fn usage(&self, ctx: &Ctx) -> Result<Usage, StoreError> {
        let layout = &self.layout;
        let images = self.images(ctx)?;
        let mut usage = Usage::default();
        let mut sizes: BTreeMap<ChainId, u64> = BTreeMap::new();
        for chain_id in layerdb::list(layout)? {
            if let Ok(Some(record)) = layerdb::read(layout, chain_id) {
                usage.layers.add(record.size);
                sizes.insert(chain_id, record.size);
            }
        }
        let mut owners: BTreeMap<ChainId, BTreeSet<ImageId>> = BTreeMap::new();
        for image in &images {
            for chain_id in image.config.chain_ids() {
                owners.entry(chain_id).or_default().insert(image.id());
            }
        }
        let mounts = containers::mounts(layout)?;
        let mounted: BTreeSet<ChainId> = mounts.iter().filter_map(|mount| mount.parent).collect();
        for image in images {
            let chain_ids = image.config.chain_ids();
            let (mut shared, mut unique) = (0u64, 0u64);
            for chain_id in &chain_ids {
                let size = sizes.get(chain_id).copied().unwrap_or(0);
                let several = owners.get(chain_id).is_some_and(|owners| owners.len() > 1);
                let sum = if several { &mut shared } else { &mut unique };
                *sum = sum.saturating_add(size);
            }
            let in_use = chain_ids.last().is_some_and(|top| mounted.contains(top));
            usage.images.push(ImageUsage { image, shared, unique, in_use });
        }
        for name in files::names(&layout.blobs())? {
            let path = layout.blobs().join(name);
            usage.originals.add(path.symlink_metadata().at("read", &path)?.len());
        }
        for mount in mounts {
            if let Some(id) = &mount.mount_id {
                ctx.check()?;
                usage.containers.push((mount.container, file_bytes(&layout.diff_dir(id))?));
            }
        }
        let leftovers = Leftovers::find(layout)?;
        for chain_id in &leftovers.layers {
            usage.leftovers.add(sizes.get(chain_id).copied().unwrap_or(0));
        }
        for digest in &leftovers.blobs {
            usage.leftovers.add(layout.blob(digest).symlink_metadata().map_or(0, |metadata| metadata.len()));
        }
        for name in files::names(&layout.staging())? {
            usage.staging.add(tree_bytes(&layout.staging().join(name))?);
        }
        Ok(usage)
    }
}

/// The room that a tree takes on disk, in bytes. What vanishes meanwhile does not count.
fn tree_bytes(path: &Path) -> Result<u64, PathError> {
    let Ok(metadata) = path.symlink_metadata() else { return Ok(0) };
    let mut bytes = metadata.blocks().saturating_mul(512);
    if metadata.is_dir() {
        let Ok(entries) = fs::read_dir(path) else { return Ok(bytes) };
        for entry in entries {
            bytes = bytes.saturating_add(tree_bytes(&entry.at("read", path)?.path())?);
        }
    }
    Ok(bytes)
}

/// What the files of a tree hold, in bytes, as docker counts: directories are nothing, and files with several names count
/// once. What vanishes meanwhile does not count.
pub fn file_bytes(path: &Path) -> Result<u64, PathError> {
    let mut seen = HashSet::new();
    let mut bytes = 0_u64;
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.at("read", &folder)?.path();
            match path.symlink_metadata() {
                Ok(meta) if meta.is_dir() => folders.push(path),
                Ok(meta) if meta.nlink() == 1 || seen.insert(meta.ino()) => bytes = bytes.saturating_add(meta.len()),
                _ => {}
            }
        }
    }
    Ok(bytes)
}
