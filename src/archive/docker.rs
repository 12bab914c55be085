//! docker-archive: `manifest.json` and what it names, in every shape there is. Docker before 25 (a directory a layer,
//! `layer.tar` a symbolic link where a layer repeats), Docker 25 and later and containerd (blobs of an OCI layout),
//! podman and skopeo (`DIFFID.tar` at the top), crane (compressed blobs): what differs is only where paths lead.

use serde::Deserialize;

use super::catalog::{Found, FoundLayer};
use super::container::Container;
use super::docs::{self, Capped};
use super::entries::Entry;
use super::error::ArchiveError;
use crate::base::{Digest, caps};
use crate::image::manifest::media_type;
use crate::image::{Descriptor, DiffId, Layer};
use crate::layer::compression::{self, Compression};

/// The document's name.
const MANIFEST: &str = "manifest.json";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Capped<String, { caps::NAMES }>,
    #[serde(default)]
    layers: Capped<String, { caps::LAYERS }>,
}

/// The images that `manifest.json` lists; `None` when there is no such document.
pub fn read(container: &dyn Container) -> Result<Option<Vec<Found>>, ArchiveError> {
    let Some(entry) = container.find(MANIFEST)? else { return Ok(None) };
    let bytes = container.read(&entry, caps::ARCHIVE_INDEX_BYTES)?;
    let items: Capped<Item, { caps::IMAGES }> = docs::parse(container.origin(), MANIFEST, &bytes)?;
    items.0.iter().map(|item| image(container, item)).collect::<Result<_, _>>().map(Some)
}

fn image(container: &dyn Container, item: &Item) -> Result<Found, ArchiveError> {
    let entry = docs::require(container, &item.config, MANIFEST)?;
    let config = docs::config(container, &entry, digest_in_name(&item.config))?;
    let diff_ids = config.diff_ids();
    if diff_ids.len() != item.layers.0.len() {
        return Err(ArchiveError::LayerCount {
            origin: container.origin().to_owned(),
            image: config.id(),
            expected: diff_ids.len(),
            found: item.layers.0.len(),
            entry: MANIFEST.into(),
        });
    }
    let layers = diff_ids
        .iter()
        .zip(&item.layers.0)
        .map(|(diff_id, path)| layer(container, *diff_id, path))
        .collect::<Result<_, _>>()?;
    let mut names = Vec::new();
    for name in item.repo_tags.0.iter().filter(|name| *name != "<none>:<none>") {
        names.extend(docs::names(container, MANIFEST, name)?);
    }
    Ok(Found { names, config, manifest: None, documents: Vec::new(), layers })
}

fn layer(container: &dyn Container, diff_id: DiffId, path: &str) -> Result<FoundLayer, ArchiveError> {
    let entry = docs::require(container, path, MANIFEST)?;
    let compression = compression::detect(&container.head(&entry)?);
    let size = (compression == Compression::None).then_some(entry.size);
    let original = original(path, &entry, diff_id, compression);
    Ok(FoundLayer { layer: Layer { diff_id, size, original }, entry })
}

/// crane and containerd name a compressed layer by the digest its registry knows it by.
fn original(path: &str, entry: &Entry, diff_id: DiffId, compression: Compression) -> Option<Descriptor> {
    let media_type = match compression {
        Compression::Gzip => media_type::DOCKER_LAYER_GZIP,
        Compression::Zstd => media_type::OCI_LAYER_ZSTD,
        _ => return None,
    };
    let digest = digest_in_name(path).filter(|digest| *digest != diff_id.0)?;
    Some(Descriptor::new(media_type, digest, entry.size))
}

/// The digest that an entry's name promises for its bytes: `HEX.json`, `sha256:HEX`, `blobs/sha256/HEX`, `HEX.tar.gz`.
fn digest_in_name(path: &str) -> Option<Digest> {
    let name = path.rsplit('/').next()?;
    let name = name.strip_prefix("sha256:").unwrap_or(name);
    Digest::from_hex(name.split('.').next()?).ok()
}
