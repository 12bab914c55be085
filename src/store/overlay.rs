//! The driver's directories: `overlay2/<cache ID>/{diff,link,lower,work,merged,committed}` and the short links `l/`.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::error::StoreError;
use super::files;
use super::layout::{CacheId, Layout, LinkName};
use crate::base::{AtPath, PathError, durable};

/// The most lower directories overlay2 stacks.
pub const MAX_LOWERS: usize = 128;

/// The short link of a layer's directory.
pub fn link(layout: &Layout, id: &CacheId) -> Result<LinkName, StoreError> {
    files::required(&layout.cache_dir(id).join("link"))
}

/// The `lower` of a directory whose parent has `link` and `lower` of its own.
pub fn stack(link: &LinkName, lower: Option<&str>) -> String {
    match lower {
        Some(lower) => format!("l/{link}:{lower}"),
        None => format!("l/{link}"),
    }
}

/// The `lower` that a child of the layer in `parent` has to have.
pub fn lower_above(layout: &Layout, parent: &CacheId) -> Result<String, StoreError> {
    let lower = files::line(&layout.cache_dir(parent).join("lower"))?;
    let stacked = stack(&link(layout, parent)?, lower.as_deref());
    let depth = stacked.split(':').count();
    if depth > MAX_LOWERS {
        let path = layout.cache_dir(parent).join("lower");
        return Err(StoreError::Damaged { path, reason: format!("{depth} layers; overlay stacks {MAX_LOWERS}") });
    }
    Ok(stacked)
}

/// Makes the short link of a directory, unless it is there.
pub fn make_link(layout: &Layout, id: &CacheId, link: &LinkName) -> Result<(), PathError> {
    let path = layout.links().join(link.as_str());
    let target = link_target(id);
    match symlink(&target, &path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if fs::read_link(&path).at("read", &path)? == target {
                return Ok(());
            }
            Err(error).at("create", &path)
        }
        result => result.at("create", &path),
    }
}

/// What the short link of a directory points to.
pub fn link_target(id: &CacheId) -> PathBuf {
    Path::new("..").join(id.as_str()).join("diff")
}

/// Marks a layer as having children, as dockerd does: it is never mounted writable again.
pub fn mark_committed(layout: &Layout, id: &CacheId) -> Result<(), PathError> {
    let path = layout.cache_dir(id).join("committed");
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    durable::write(&path, b"", 0o600)
}

/// Removes a directory and its short link; what is not there is as good.
pub fn remove(layout: &Layout, id: &CacheId) -> Result<(), StoreError> {
    if let Ok(Some(link)) = files::parsed::<LinkName>(&layout.cache_dir(id).join("link")) {
        files::remove(&layout.links().join(link.as_str()))?;
    }
    Ok(files::remove_tree(&layout.cache_dir(id))?)
}
