//! Manifests as they came: `ferry/manifests/sha256/<image ID>/<manifest digest>`, so that `name@sha256:…` can be
//! resolved and the digest that a registry gave goes out again. `index-<digest>` beside them are the indexes that names
//! of the image are pinned to, and those in between: without them nobody else could tell that such a name is true.

use super::error::StoreError;
use super::files;
use super::layout::{INDEX, Layout};
use crate::base::{Digest, PathError, caps};
use crate::image::{ImageId, Manifest};

/// The digests of an image's manifests, sorted.
pub fn list(layout: &Layout, id: &ImageId) -> Result<Vec<Digest>, PathError> {
    files::listed(&layout.image_manifests(id), |name| Digest::from_hex(name).ok())
}

/// Reads one manifest of an image and checks it against its name.
pub fn read(layout: &Layout, id: &ImageId, digest: &Digest) -> Result<Option<Manifest>, StoreError> {
    let path = layout.image_manifests(id).join(digest.hex());
    let Some(raw) = files::read(&path, caps::MANIFEST_BYTES)? else { return Ok(None) };
    let damaged = |reason: String| StoreError::Damaged { path: path.clone(), reason };
    let manifest = Manifest::parse(raw, None).map_err(|error| damaged(error.to_string()))?;
    if manifest.digest() != *digest {
        return Err(damaged(format!("its digest is {}", manifest.digest())));
    }
    if manifest.config().digest != id.0 {
        return Err(damaged(format!("it is a manifest of image {}", manifest.config().digest)));
    }
    Ok(Some(manifest))
}

/// The digests of the indexes that lead to an image, sorted.
pub fn indexes(layout: &Layout, id: &ImageId) -> Result<Vec<Digest>, PathError> {
    files::listed(&layout.image_manifests(id), |name| Digest::from_hex(name.strip_prefix(INDEX)?).ok())
}

/// Reads one index and checks it against its name.
pub fn index(layout: &Layout, id: &ImageId, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
    let path = layout.image_index(id, digest);
    let Some(raw) = files::read(&path, caps::MANIFEST_BYTES)? else { return Ok(None) };
    let found = Digest::of(&raw);
    if found != *digest {
        return Err(StoreError::Damaged { path, reason: format!("its digest is {found}") });
    }
    Ok(Some(raw))
}
