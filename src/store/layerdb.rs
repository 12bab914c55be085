//! Layer metadata as dockerd keeps it: `layerdb/sha256/<chain ID>/{diff,cache-id,size,parent,tar-split.json.gz}`.

use std::path::Path;

use super::error::StoreError;
use super::files;
use super::layout::{CacheId, Layout};
use crate::base::{Digest, PathError, durable};
use crate::image::{ChainId, DiffId};

/// The compressed tar-split beside the other files of a layer.
pub const TAR_SPLIT: &str = "tar-split.json.gz";

/// One read-only layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerRecord {
    /// What it is called by: itself and all below it.
    pub chain_id: ChainId,
    /// Its own tar's digest.
    pub diff_id: DiffId,
    /// Its directory below `overlay2/`.
    pub cache_id: CacheId,
    /// The sum of its files' sizes in bytes, as docker counts.
    pub size: u64,
    /// The layer below.
    pub parent: Option<ChainId>,
}

/// Reads one layer's record; `None` when there is no such layer.
pub fn read(layout: &Layout, chain_id: ChainId) -> Result<Option<LayerRecord>, StoreError> {
    let dir = layout.layer(&chain_id);
    if dir.symlink_metadata().is_err() {
        return Ok(None);
    }
    Ok(Some(LayerRecord {
        chain_id,
        diff_id: files::required(&dir.join("diff"))?,
        cache_id: files::required(&dir.join("cache-id"))?,
        size: files::required(&dir.join("size"))?,
        parent: files::parsed(&dir.join("parent"))?,
    }))
}

/// Whether there is such a layer.
pub fn exists(layout: &Layout, chain_id: &ChainId) -> bool {
    layout.layer(chain_id).symlink_metadata().is_ok()
}

/// The chain IDs of all layers, sorted.
pub fn list(layout: &Layout) -> Result<Vec<ChainId>, PathError> {
    files::listed(&layout.layerdb(), |name| Digest::from_hex(name).ok().map(ChainId))
}

/// Writes a record's files into `dir`. Not durable by itself: whoever gives the directory its name syncs first.
pub fn write(dir: &Path, record: &LayerRecord) -> Result<(), PathError> {
    use crate::base::AtPath;
    let put = |name: &str, text: String| {
        let path = dir.join(name);
        std::fs::write(&path, text).at("write", &path)
    };
    put("diff", record.diff_id.to_string())?;
    put("cache-id", record.cache_id.to_string())?;
    put("size", record.size.to_string())?;
    match &record.parent {
        Some(parent) => put("parent", parent.to_string()),
        None => Ok(()),
    }
}

/// The directories of layers whose removal was begun: `<chain ID>-<random>-removing`.
pub fn half_removed(layout: &Layout) -> Result<Vec<String>, PathError> {
    files::listed(&layout.layerdb(), |name| {
        let chain = name.strip_suffix("-removing")?.split('-').next()?;
        Digest::from_hex(chain).ok().map(|_| name.to_owned())
    })
}

/// Removes a layer: first its metadata gets a name that says so, then its tree goes, then the metadata.
pub fn remove(layout: &Layout, record: &LayerRecord) -> Result<(), StoreError> {
    let name = format!("{}-{}-removing", record.chain_id.0.hex(), CacheId::random().map_err(random)?);
    durable::rename(&layout.layer(&record.chain_id), &layout.layerdb().join(&name))?;
    files::remove(&layout.content_list(&record.chain_id))?;
    finish_removal(layout, &name)
}

/// Finishes what [`remove`], or dockerd, began.
pub fn finish_removal(layout: &Layout, name: &str) -> Result<(), StoreError> {
    let dir = layout.layerdb().join(name);
    if let Ok(Some(cache_id)) = files::parsed::<CacheId>(&dir.join("cache-id")) {
        super::overlay::remove(layout, &cache_id)?;
    }
    Ok(files::remove_tree(&dir)?)
}

fn random(source: std::io::Error) -> StoreError {
    PathError { action: "read", path: "/dev/urandom".into(), source }.into()
}
