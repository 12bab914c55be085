//! Configs as dockerd keeps them: `imagedb/content/sha256/<image ID>` is the document, byte for byte;
//! `imagedb/metadata/sha256/<image ID>/{parent,lastUpdated}` is what dockerd notes beside it.

use super::error::StoreError;
use super::files;
use super::layout::Layout;
use crate::base::{Digest, PathError, caps};
use crate::image::{ImageConfig, ImageId};

/// The IDs of all images, sorted.
pub fn list(layout: &Layout) -> Result<Vec<ImageId>, PathError> {
    files::listed(&layout.configs(), |name| Digest::from_hex(name).ok().map(ImageId))
}

/// Whether there is such an image.
pub fn exists(layout: &Layout, id: &ImageId) -> bool {
    layout.config(id).symlink_metadata().is_ok()
}

/// Reads one config and checks it against its name; `None` when there is no such image.
pub fn read(layout: &Layout, id: &ImageId) -> Result<Option<ImageConfig>, StoreError> {
    let path = layout.config(id);
    let Some(raw) = files::read(&path, caps::CONFIG_BYTES)? else { return Ok(None) };
    let found = Digest::of(&raw);
    if found != id.0 {
        return Err(StoreError::Damaged { path, reason: format!("its digest is {found}") });
    }
    match ImageConfig::parse(raw) {
        Ok(config) => Ok(Some(config)),
        Err(error) => Err(StoreError::Damaged { path, reason: error.to_string() }),
    }
}

/// The image that this one was built on, where dockerd noted one.
pub fn parent(layout: &Layout, id: &ImageId) -> Option<ImageId> {
    files::parsed(&layout.config_metadata(id).join("parent")).ok().flatten()
}

/// Removes an image: its metadata first, so that the config is what says whether it is there.
pub fn remove(layout: &Layout, id: &ImageId) -> Result<(), PathError> {
    files::remove_tree(&layout.config_metadata(id))?;
    files::remove(&layout.config(id))
}

/// Forgets that `child` was built on another image, as dockerd does when that one goes.
pub fn orphan(layout: &Layout, child: &ImageId) -> Result<(), PathError> {
    files::remove(&layout.config_metadata(child).join("parent"))
}
