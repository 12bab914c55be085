//! The store as a place that images are taken from.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::sync::{Arc, Mutex};

use super::error::StoreError;
use super::locks::Using;
use super::packed::Packed;
use super::{Store, StoredImage, layerdb, manifests, originals};
use crate::base::read_at::FileAt;
use crate::base::{AtPath, BoxFault, ContentId, Ctx, Digest, lock};
use crate::image::{
    ChainId, Descriptor, DiffId, Extent, Form, Image, ImageSource, Layer, Manifest, Reference, SplitContent, SplitSink,
};
use crate::sys::dir::Dir;

/// Images of a store, to be read. Their layers stay while it lives.
#[derive(Debug)]
pub struct StoreSource<'s> {
    store: &'s Store,
    images: Vec<Image>,
    layers: BTreeMap<DiffId, Packed>,
    /// Trees that contents were read from: an archive of many small contents comes back to each of them thousands of times.
    trees: Mutex<BTreeMap<DiffId, Arc<Dir>>>,
    _using: Using,
}

/// How many trees are kept open at most.
const TREES: usize = 128;

impl Store {
    /// The store as a source of `images` with all their names.
    pub fn source(&self, images: &[StoredImage], ctx: &Ctx) -> Result<StoreSource<'_>, StoreError> {
        let named: Vec<_> = images.iter().map(|image| (image.clone(), image.names.clone())).collect();
        self.source_as(&named, ctx)
    }

    /// The store as a source of images under these names. An image has a manifest when every blob of that can be given;
    /// one whose names stand for several is several images of the source.
    pub fn source_as(
        &self,
        images: &[(StoredImage, Vec<Reference>)],
        ctx: &Ctx,
    ) -> Result<StoreSource<'_>, StoreError> {
        let using = self.using(ctx)?;
        let mut source = StoreSource {
            store: self,
            images: Vec::new(),
            layers: BTreeMap::new(),
            trees: Mutex::default(),
            _using: using,
        };
        for (stored, names) in images {
            for (manifest, names) in by_manifest(stored, names, &source.whole_manifests(stored)?) {
                let image = source.describe(stored, names, manifest)?;
                source.images.push(image);
            }
        }
        Ok(source)
    }

    /// The files of a layer that are not empty, in the order of its tar: what `SplitSink` gets, without the segments.
    /// A layer that dockerd wrote is proven by its diff ID first, and its list recorded.
    pub fn contents(&self, diff_id: &DiffId) -> Result<Vec<(ContentId, u64, Vec<u8>)>, StoreError> {
        self.packed(diff_id)?.contents()
    }

    /// The layers here: where each lies, and what it is.
    pub fn layer_places(&self) -> Result<Vec<(ChainId, DiffId)>, StoreError> {
        let mut all = Vec::new();
        for chain_id in layerdb::list(&self.layout)? {
            // A layer that cannot be read is no layer to build upon.
            if let Ok(Some(record)) = layerdb::read(&self.layout, chain_id) {
                all.push((chain_id, record.diff_id));
            }
        }
        Ok(all)
    }

    /// [`Store::contents`] of a layer whose place is known.
    pub fn contents_at(&self, place: ChainId) -> Result<Vec<(ContentId, u64, Vec<u8>)>, StoreError> {
        Packed::of_store(&self.layout, place)?.contents()
    }

    /// Opens the file at `path` of the tree of a layer whose place is known. Its bytes are unverified: hash them and
    /// compare with the content ID.
    pub fn open_content_at(&self, place: ChainId, path: &[u8]) -> Result<File, StoreError> {
        Packed::of_store(&self.layout, place)?.open(path)
    }

    /// The tar of a layer on whatever base, every content compared with its list while it is read.
    pub fn open_tar(&self, diff_id: &DiffId) -> Result<Box<dyn Read + Send>, StoreError> {
        self.packed(diff_id)?.tar()
    }

    /// The diff IDs of all layers here.
    pub fn diff_ids(&self) -> Result<std::collections::BTreeSet<DiffId>, StoreError> {
        let mut all = std::collections::BTreeSet::new();
        for chain_id in layerdb::list(&self.layout)? {
            // A layer that cannot be read is no layer to build upon.
            if let Ok(Some(record)) = layerdb::read(&self.layout, chain_id) {
                all.insert(record.diff_id);
            }
        }
        Ok(all)
    }

    /// Where a layer of this diff ID lies, on whatever base.
    pub fn find_layer(&self, diff_id: &DiffId) -> Result<Option<ChainId>, StoreError> {
        for chain_id in layerdb::list(&self.layout)? {
            if matches!(layerdb::read(&self.layout, chain_id), Ok(Some(record)) if record.diff_id == *diff_id) {
                return Ok(Some(chain_id));
            }
        }
        Ok(None)
    }

    fn packed(&self, diff_id: &DiffId) -> Result<Packed, StoreError> {
        let chain_id = self.find_layer(diff_id)?.ok_or(StoreError::NoLayer(ChainId(diff_id.0)))?;
        Packed::of_store(&self.layout, chain_id)
    }
}

/// Names by the manifest that each stands for; names that stand for none that is whole go with the first.
fn by_manifest(
    stored: &StoredImage,
    names: &[Reference],
    whole: &[Manifest],
) -> Vec<(Option<Manifest>, Vec<Reference>)> {
    let mut groups: BTreeMap<usize, Vec<Reference>> = BTreeMap::new();
    for name in names {
        let own = stored.manifest_of(name);
        let at = whole.iter().position(|manifest| Some(manifest.digest()) == own).unwrap_or(0);
        groups.entry(at).or_default().push(name.clone());
    }
    if groups.is_empty() {
        groups.insert(0, Vec::new());
    }
    groups.into_iter().map(|(at, names)| (whole.get(at).cloned(), names)).collect()
}

impl StoreSource<'_> {
    fn describe(
        &mut self,
        stored: &StoredImage,
        names: Vec<Reference>,
        manifest: Option<Manifest>,
    ) -> Result<Image, StoreError> {
        let layout = &self.store.layout;
        let mut layers = Vec::new();
        for (at, (chain_id, diff_id)) in stored.config.chain_ids().into_iter().zip(stored.config.diff_ids()).enumerate()
        {
            let packed = Packed::of_store(layout, chain_id)?;
            let named = manifest.as_ref().and_then(|manifest| manifest.layers().get(at));
            let original = match named {
                Some(tar) if tar.digest == diff_id.0 => Some(tar.clone()),
                _ => originals::present(layout, diff_id, named.map(|named| &named.digest))?,
            };
            let size = packed.tar_size()?;
            self.layers.entry(*diff_id).or_insert(packed);
            layers.push(Layer { diff_id: *diff_id, size: Some(size), original });
        }
        Ok(Image { names, config: stored.config.clone(), manifest, layers })
    }

    /// The manifests of which every blob is there; those that the image is known by come first.
    fn whole_manifests(&self, stored: &StoredImage) -> Result<Vec<Manifest>, StoreError> {
        let layout = &self.store.layout;
        let mut whole = Vec::new();
        let mut digests = stored.manifests.clone();
        let known = |digest| stored.names.iter().any(|name| name.digest() == Some(digest));
        digests.sort_by_key(|digest| !known(*digest));
        for digest in digests {
            let Some(manifest) = manifests::read(layout, &stored.id(), &digest)? else { continue };
            let there = |(blob, diff_id): (&Descriptor, &DiffId)| {
                blob.digest == diff_id.0
                    || layout.blob(&blob.digest).metadata().is_ok_and(|metadata| metadata.len() == blob.size)
            };
            let diff_ids = stored.config.diff_ids();
            if manifest.layers().len() == diff_ids.len() && manifest.layers().iter().zip(diff_ids).all(there) {
                whole.push(manifest);
            }
        }
        Ok(whole)
    }

    fn packed(&self, diff_id: &DiffId) -> Result<&Packed, StoreError> {
        self.layers.get(diff_id).ok_or(StoreError::NoLayer(ChainId(diff_id.0)))
    }

    fn tree(&self, layer: &Packed) -> Result<Arc<Dir>, StoreError> {
        let mut trees = lock(&self.trees);
        if let Some(tree) = trees.get(&layer.diff_id) {
            return Ok(Arc::clone(tree));
        }
        if trees.len() == TREES {
            trees.clear();
        }
        let tree = Arc::new(Dir::open(&layer.tree)?);
        trees.insert(layer.diff_id, Arc::clone(&tree));
        Ok(tree)
    }
}

impl ImageSource for StoreSource<'_> {
    fn origin(&self) -> String {
        self.store.root().display().to_string()
    }

    fn images(&self) -> &[Image] {
        &self.images
    }

    fn index(&self, digest: &Digest) -> Result<Option<Vec<u8>>, BoxFault> {
        for image in &self.images {
            if let Some(raw) = manifests::index(&self.store.layout, &image.config.id(), digest)? {
                return Ok(Some(raw));
            }
        }
        Ok(None)
    }

    fn open_layer(&self, layer: &Layer, form: Form) -> Result<Box<dyn Read + Send + '_>, BoxFault> {
        if let (Form::Original, Some(original)) = (form, &layer.original)
            && original.digest != layer.diff_id.0
        {
            let path = self.store.layout.blob(&original.digest);
            return Ok(Box::new(File::open(&path).at("open", &path)?));
        }
        Ok(self.packed(&layer.diff_id)?.tar()?)
    }

    fn split_layer(&self, layer: &Layer, sink: &mut dyn SplitSink) -> Result<bool, BoxFault> {
        self.packed(&layer.diff_id)?.split(sink)?;
        Ok(true)
    }

    fn has_contents(&self, _layer: &Layer) -> bool {
        true
    }

    fn content(&self, layer: &Layer, content: &SplitContent<'_>) -> Result<Option<Extent>, BoxFault> {
        let packed = self.packed(&layer.diff_id)?;
        let file = packed.open_in(&*self.tree(packed)?, content.path)?;
        let bytes = FileAt::new(file).at("read", &packed.tree)?;
        Ok(Some(Extent { bytes: Arc::new(bytes), offset: 0 }))
    }
}
