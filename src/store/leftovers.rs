//! What nothing in a store needs any more: the remains of crashes, of other programs, of a dockerd that removed an
//! image without knowing of the `ferry/` folder.

use std::collections::BTreeSet;

use super::error::StoreError;
use super::layout::{CacheId, Layout};
use super::remove::needed_layers;
use super::{containers, files, imagedb, layerdb, originals};
use crate::base::Digest;
use crate::image::{ChainId, DiffId, ImageId};

/// Things that nothing needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Leftovers {
    /// Layers that no image, layer or container stands on; children before parents. Empty when that cannot be known.
    pub layers: Vec<ChainId>,
    /// Directories below `overlay2/` that no layer or container has.
    pub cache_dirs: Vec<CacheId>,
    /// Compressed layers that no layer's list names.
    pub blobs: Vec<Digest>,
    /// Lists of compressed blobs of layers that are gone.
    pub originals: Vec<DiffId>,
    /// Manifests of images that are gone.
    pub manifests: Vec<ImageId>,
    /// Content lists of layers that are gone.
    pub contents: Vec<ChainId>,
}

impl Leftovers {
    /// Looks for them.
    pub fn find(layout: &Layout) -> Result<Self, StoreError> {
        let layers = layerdb::list(layout)?;
        let known: BTreeSet<ChainId> = layers.iter().copied().collect();
        let mut diff_ids = BTreeSet::new();
        let mut cache_ids = BTreeSet::new();
        let mut all_readable = true;
        for chain_id in &layers {
            match layerdb::read(layout, *chain_id) {
                Ok(Some(record)) => {
                    diff_ids.insert(record.diff_id);
                    cache_ids.insert(record.cache_id);
                }
                _ => all_readable = false,
            }
        }
        let unreadable = |id: &ImageId| !matches!(imagedb::read(layout, id), Ok(Some(_)));
        all_readable &= !imagedb::list(layout)?.iter().any(unreadable);
        let builder = has_build_cache(layout);
        let mut found = Self::default();
        if all_readable && !builder {
            let needed = needed_layers(layout)?;
            found.layers = children_first(layout, layers.iter().filter(|id| !needed.contains(id)).copied())?;
        }
        if all_readable {
            for mount in containers::mounts(layout)? {
                cache_ids.extend(mount.mount_id.into_iter().chain(mount.init_id));
            }
            let dirs: Vec<CacheId> = files::listed(&layout.overlay(), |name| name.parse().ok())?;
            found.cache_dirs = dirs.into_iter().filter(|id| !cache_ids.contains(id)).collect();
        }
        found.contents = of_gone(layout.contents(), |id| known.contains(&ChainId(*id)))?.map(ChainId).collect();
        found.originals = of_gone(layout.originals(), |id| diff_ids.contains(&DiffId(*id)))?.map(DiffId).collect();
        if !all_readable {
            found.originals.clear();
        }
        let images = |id: &Digest| imagedb::exists(layout, &ImageId(*id));
        found.manifests = of_gone(layout.manifests(), images)?.map(ImageId).collect();
        let mut named = BTreeSet::new();
        for diff_id in files::listed(&layout.originals(), |name| Digest::from_hex(name).ok().map(DiffId))? {
            if !found.originals.contains(&diff_id) {
                named.extend(originals::read(layout, &diff_id)?.into_iter().map(|original| original.digest));
            }
        }
        found.blobs = of_gone(layout.blobs(), |id| named.contains(id))?.collect();
        Ok(found)
    }

    /// Removes them. Under the right to remove layers. Directories below `overlay2/` only where no builder of Docker's
    /// can have made them. How many bytes went, as far as they were counted.
    pub fn remove(&self, layout: &Layout) -> Result<u64, StoreError> {
        let mut bytes = 0u64;
        for chain_id in &self.layers {
            if let Ok(Some(record)) = layerdb::read(layout, *chain_id) {
                bytes = bytes.saturating_add(record.size);
                layerdb::remove(layout, &record)?;
            }
        }
        if !has_build_cache(layout) {
            self.cache_dirs.iter().try_for_each(|id| super::overlay::remove(layout, id))?;
        }
        for digest in &self.blobs {
            let path = layout.blob(digest);
            bytes = bytes.saturating_add(path.metadata().map_or(0, |metadata| metadata.len()));
            files::remove(&path)?;
        }
        self.originals.iter().try_for_each(|id| files::remove(&layout.original_list(id)))?;
        self.manifests.iter().try_for_each(|id| files::remove_tree(&layout.image_manifests(id)))?;
        self.contents.iter().try_for_each(|id| files::remove(&layout.content_list(id)))?;
        Ok(bytes)
    }
}

/// Whether Docker's builder may keep layers and directories here that only its own database knows.
pub(super) fn has_build_cache(layout: &Layout) -> bool {
    layout.at("buildkit/snapshots.db").symlink_metadata().is_ok()
}

/// The digests that name files in a directory and are not `needed`.
fn of_gone(
    dir: std::path::PathBuf,
    needed: impl Fn(&Digest) -> bool,
) -> Result<impl Iterator<Item = Digest>, StoreError> {
    let all = files::listed(&dir, |name| Digest::from_hex(name).ok())?;
    Ok(all.into_iter().filter(move |digest| !needed(digest)).collect::<Vec<_>>().into_iter())
}

fn children_first(layout: &Layout, layers: impl Iterator<Item = ChainId>) -> Result<Vec<ChainId>, StoreError> {
    let mut by_depth = Vec::new();
    for chain_id in layers {
        let (mut depth, mut next) = (0, layerdb::read(layout, chain_id)?.and_then(|record| record.parent));
        while let Some(parent) = next.filter(|_| depth < super::overlay::MAX_LOWERS) {
            depth += 1;
            next = layerdb::read(layout, parent)?.and_then(|record| record.parent);
        }
        by_depth.push((std::cmp::Reverse(depth), chain_id));
    }
    by_depth.sort_unstable();
    Ok(by_depth.into_iter().map(|(_, chain_id)| chain_id).collect())
}
