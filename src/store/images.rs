//! Images as the store has them, and how a user's text finds one.

use std::collections::BTreeMap;

use super::error::StoreError;
use super::layout::Layout;
use super::references::canonical;
use super::{LayerRecord, References, Store, imagedb, layerdb, manifests};
use crate::base::{Ctx, Digest};
use crate::image::{ImageConfig, ImageId, Reference};

/// One image of the store.
#[derive(Debug, Clone)]
pub struct StoredImage {
    /// Its config; the digest of that is the image's ID.
    pub config: ImageConfig,
    /// Its tags, then its digest references, each sorted.
    pub names: Vec<Reference>,
    /// The sum of its layers' sizes in bytes, as docker counts.
    pub size: u64,
    /// The image it was built on, where dockerd noted one.
    pub parent: Option<ImageId>,
    /// The digests of the manifests it came with.
    pub manifests: Vec<Digest>,
    /// The manifests that it came with under its names, where that was noted.
    pub noted: BTreeMap<Reference, Digest>,
}

impl StoredImage {
    /// The image's ID.
    pub fn id(&self) -> ImageId {
        self.config.id()
    }

    /// The manifest that a name stands for: the one it is the digest of, or the one that it came with.
    pub fn manifest_of(&self, name: &Reference) -> Option<Digest> {
        let own = name.digest().filter(|digest| self.manifests.contains(digest));
        own.or_else(|| self.noted.get(&canonical(name)).copied())
    }

    /// When it was made; `None` where the config does not say, or not as RFC 3339.
    pub fn created(&self) -> Option<jiff::Timestamp> {
        self.config.fields().created.as_deref()?.parse().ok()
    }

    /// Whether it has no tag.
    pub fn is_untagged(&self) -> bool {
        self.names.iter().all(|name| name.tag().is_none())
    }
}

impl Store {
    /// All images, newest first. Those that cannot be read or lack a layer are left out with a warning, as dockerd
    /// leaves them out.
    pub fn images(&self, ctx: &Ctx) -> Result<Vec<StoredImage>, StoreError> {
        let (references, _) = self.references()?;
        let mut names = references.by_image();
        let mut images = Vec::new();
        for id in imagedb::list(&self.layout)? {
            match read(&self.layout, &id, &references, names.remove(&id).unwrap_or_default()) {
                Ok(Some(image)) => images.push(image),
                Ok(None) => {}
                Err(error) => ctx.warn(format!("image {} is left out: {error}", id.0.short())),
            }
        }
        for (_, names) in names {
            for name in names {
                ctx.warn(format!("{name} is the name of an image that is not there"));
            }
        }
        images.sort_by_key(|image| (std::cmp::Reverse(image.created()), image.id()));
        Ok(images)
    }

    /// The image of an ID.
    pub fn image(&self, id: &ImageId) -> Result<StoredImage, StoreError> {
        let (references, _) = self.references()?;
        read(&self.layout, id, &references, references.of(id))?.ok_or_else(|| StoreError::NoImage(id.to_string()))
    }

    /// An image's layers, base first.
    pub fn layers(&self, config: &ImageConfig) -> Result<Vec<LayerRecord>, StoreError> {
        let read = |chain_id| layerdb::read(&self.layout, chain_id)?.ok_or(StoreError::NoLayer(chain_id));
        config.chain_ids().into_iter().map(read).collect()
    }

    /// The image a text means, as docker reads it: a full ID, a name, a name with a digest, or the beginning of an ID.
    pub fn resolve(&self, text: &str) -> Result<StoredImage, StoreError> {
        let (references, _) = self.references()?;
        let id = find(&self.layout, &references, text)?;
        read(&self.layout, &id, &references, references.of(&id))?.ok_or_else(|| StoreError::NoImage(text.to_owned()))
    }
}

/// Reads one image; `None` when there is none of that ID.
fn read(
    layout: &Layout,
    id: &ImageId,
    references: &References,
    names: Vec<Reference>,
) -> Result<Option<StoredImage>, StoreError> {
    let Some(config) = imagedb::read(layout, id)? else { return Ok(None) };
    let mut size = 0u64;
    for chain_id in config.chain_ids() {
        let record = layerdb::read(layout, chain_id)?.ok_or(StoreError::NoLayer(chain_id))?;
        size = size.saturating_add(record.size);
    }
    let parent = imagedb::parent(layout, id);
    let noted = names.iter().filter_map(|name| Some((name.clone(), references.manifest(name)?))).collect();
    Ok(Some(StoredImage { config, names, size, parent, manifests: manifests::list(layout, id)?, noted }))
}

/// Docker's order: a full ID, then a name, then the beginning of an ID.
pub(super) fn find(layout: &Layout, references: &References, text: &str) -> Result<ImageId, StoreError> {
    let missing = || StoreError::NoImage(text.to_owned());
    let full = text.parse().or_else(|_| Digest::from_hex(text));
    if let Ok(digest) = full {
        let id = ImageId(digest);
        return if imagedb::exists(layout, &id) { Ok(id) } else { Err(missing()) };
    }
    if let Ok(name) = text.parse::<Reference>() {
        if let Some(id) = references.get(&name) {
            return Ok(id);
        }
        if let Some(digest) = name.digest() {
            return by_manifest(layout, references, &name, digest)?.ok_or_else(missing);
        }
    }
    by_prefix(layout, text)?.ok_or_else(missing)
}

/// An image that came with this manifest and has a name in the same repository.
fn by_manifest(
    layout: &Layout,
    references: &References,
    name: &Reference,
    digest: Digest,
) -> Result<Option<ImageId>, StoreError> {
    let repository = canonical(name).full_name();
    for (known, id) in references.iter() {
        if known.full_name() == repository && manifests::list(layout, &id)?.contains(&digest) {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

fn by_prefix(layout: &Layout, text: &str) -> Result<Option<ImageId>, StoreError> {
    let prefix = text.strip_prefix("sha256:").unwrap_or(text);
    if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Ok(None);
    }
    let found: Vec<ImageId> =
        imagedb::list(layout)?.into_iter().filter(|id| id.0.hex().starts_with(prefix)).take(8).collect();
    match found.as_slice() {
        [] => Ok(None),
        [id] => Ok(Some(*id)),
        several => Err(StoreError::Ambiguous {
            prefix: prefix.to_owned(),
            candidates: several.iter().map(ToString::to_string).collect(),
        }),
    }
}
