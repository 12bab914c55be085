//! What a load will do, decided before a layer byte is read.

use std::collections::{BTreeMap, BTreeSet};

use super::error::StoreError;
use super::layout::Layout;
use super::names::{self, Conflict, NameChange};
use super::{References, imagedb, layerdb, originals};
use crate::base::{Digest, caps};
use crate::image::{ChainId, Descriptor, DiffId, Form, Image, ImageId, Layer, Reference};

/// What a load will do.
#[derive(Debug, Clone, Default)]
pub struct LoadPlan {
    /// The layers that are new, base before child.
    pub layers: Vec<PlannedLayer>,
    /// The layers that are in the store already: they are not read.
    pub present: BTreeSet<ChainId>,
    /// The compressed layers that will be kept.
    pub originals: Vec<(DiffId, Descriptor)>,
    /// The images, in the order of the source.
    pub images: Vec<PlannedImage>,
    /// What becomes of each name.
    pub names: Vec<NameChange>,
}

/// A layer to be unpacked.
#[derive(Debug, Clone)]
pub struct PlannedLayer {
    /// Its name in the store.
    pub chain_id: ChainId,
    /// The layer below.
    pub parent: Option<ChainId>,
    /// As the source describes it.
    pub layer: Layer,
    /// Where its tar comes from.
    pub from: Origin,
}

/// Where a new layer's tar comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It is read from the source.
    Source,
    /// It lies on another base in the store.
    Store(ChainId),
    /// It lies on another base in this load.
    Load(ChainId),
}

/// An image of a load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedImage {
    /// Its ID.
    pub id: ImageId,
    /// Whether it is not in the store yet.
    pub is_new: bool,
    /// Its names, digest references included.
    pub names: Vec<Reference>,
}

impl LoadPlan {
    /// Plans to load `images` into a store that looks as it does now. Refuses images that contradict themselves.
    pub(super) fn new(
        layout: &Layout,
        images: &[Image],
        conflict: Conflict,
        keep_originals: bool,
    ) -> Result<Self, StoreError> {
        let mut plan = Self::default();
        let mut stored: BTreeMap<DiffId, ChainId> = BTreeMap::new();
        for chain_id in layerdb::list(layout)? {
            if let Ok(Some(record)) = layerdb::read(layout, chain_id) {
                stored.insert(record.diff_id, chain_id);
            }
        }
        let mut loaded: BTreeMap<DiffId, ChainId> = BTreeMap::new();
        let mut seen: BTreeSet<ChainId> = BTreeSet::new();
        let mut kept: BTreeSet<Digest> = BTreeSet::new();
        for image in images {
            check(image)?;
            let mut parent = None;
            for (chain_id, layer) in image.config.chain_ids().into_iter().zip(&image.layers) {
                if let Some(original) = wanted_original(layer).filter(|_| keep_originals) {
                    let known = originals::read(layout, &layer.diff_id).unwrap_or_default();
                    let there = known.iter().any(|o| o.digest == original.digest)
                        && layout.blob(&original.digest).symlink_metadata().is_ok();
                    if !there && kept.insert(original.digest) {
                        plan.originals.push((layer.diff_id, original.clone()));
                    }
                }
                if seen.insert(chain_id) {
                    if layerdb::exists(layout, &chain_id) {
                        plan.present.insert(chain_id);
                    } else {
                        let from = match (stored.get(&layer.diff_id), loaded.get(&layer.diff_id)) {
                            (Some(twin), _) => Origin::Store(*twin),
                            (None, Some(twin)) => Origin::Load(*twin),
                            (None, None) => Origin::Source,
                        };
                        loaded.entry(layer.diff_id).or_insert(chain_id);
                        plan.layers.push(PlannedLayer { chain_id, parent, layer: layer.clone(), from });
                    }
                }
                parent = Some(chain_id);
            }
            let id = image.config.id();
            plan.images.push(PlannedImage { id, is_new: !imagedb::exists(layout, &id), names: names_of(image)? });
        }
        let (references, _) = References::read(layout)?;
        let wanted = plan.images.iter().flat_map(|image| image.names.iter().map(|name| (name, image.id)));
        plan.names = names::decide(&references, wanted, conflict)?;
        Ok(plan)
    }

    /// The bytes that will be written at least: a compressed layer whose unpacked size the source does not know counts
    /// with its compressed size.
    pub fn bytes(&self) -> u64 {
        let layers = self.layers.iter().map(|planned| {
            let layer = &planned.layer;
            layer.size.or(layer.original.as_ref().map(|original| original.size)).unwrap_or(0)
        });
        let originals = self.originals.iter().map(|(_, original)| original.size);
        layers.chain(originals).fold(0, u64::saturating_add)
    }

    /// What is to be read from the source, and in which form: each layer once, and once more for each further
    /// compressed form of it that is to be kept.
    pub(super) fn wanted(&self) -> Vec<(Layer, Form)> {
        let mut wanted = Vec::new();
        let mut originals = self.originals.clone();
        for planned in self.layers.iter().filter(|planned| planned.from == Origin::Source) {
            let mut layer = planned.layer.clone();
            let at = originals.iter().position(|(diff_id, _)| *diff_id == layer.diff_id);
            let form = match at {
                Some(at) => {
                    layer.original = Some(originals.remove(at).1);
                    Form::Original
                }
                None => Form::Tar,
            };
            wanted.push((layer, form));
        }
        for (diff_id, original) in originals {
            wanted.push((Layer { diff_id, size: None, original: Some(original) }, Form::Original));
        }
        wanted
    }
}

/// The blob of a layer that is worth keeping: an uncompressed one is the tar, which can be made again.
pub(super) fn wanted_original(layer: &Layer) -> Option<&Descriptor> {
    layer.original.as_ref().filter(|original| original.digest != layer.diff_id.0)
}

/// An image's names in the form they are kept in. One that came with a registry's manifest is known by its digest as
/// well, in every repository that it has a tag in, as after `docker pull`.
fn names_of(image: &Image) -> Result<Vec<Reference>, StoreError> {
    let mut names: Vec<Reference> = Vec::new();
    for name in &image.names {
        names::check(name)?;
        names.push(super::references::canonical(name));
    }
    if let Some(manifest) = &image.manifest {
        let compressed = |(blob, diff_id): (&Descriptor, &DiffId)| blob.digest != diff_id.0;
        if manifest.layers().iter().zip(image.config.diff_ids()).any(compressed) {
            let pinned: Vec<Reference> = names.iter().map(|name| name.with_digest(manifest.digest())).collect();
            names.extend(pinned);
        }
    }
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    Ok(names)
}

/// Refuses an image whose parts do not belong together.
fn check(image: &Image) -> Result<(), StoreError> {
    let contradiction = |reason: &'static str| Err(StoreError::Contradiction { image: image.config.id(), reason });
    let diff_ids = image.config.diff_ids();
    if diff_ids.len() > caps::LAYERS {
        let (image, layers, limit) = (image.config.id(), diff_ids.len(), caps::LAYERS);
        return Err(StoreError::TooManyLayers { image, layers, limit });
    }
    if !image.layers.iter().map(|layer| &layer.diff_id).eq(diff_ids) {
        return contradiction("its layers are not those that its config names");
    }
    if let Some(manifest) = &image.manifest {
        if manifest.config().digest != image.config.id().0 {
            return contradiction("its manifest is that of another image");
        }
        if manifest.layers().len() != diff_ids.len() {
            return contradiction("its manifest has another number of layers than its config");
        }
    }
    Ok(())
}
