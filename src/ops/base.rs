//! Bases of thin bundles: what is here already, and what is known of the far side.

use std::collections::HashMap;
use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::load::BadInput;
use crate::base::{AtPath, BoxFault, Ctx, Digest, caps};
use crate::bundle::carry::{self, Access};
use crate::bundle::index::{INDEX_BYTES, ShortId, blob_of};
use crate::bundle::seal::SealError;
use crate::bundle::volume::VolumeSet;
use crate::bundle::{BaseContents, BundleError, BundleSource, Inventory, KnownBase};
use crate::image::{DiffId, Form, ImageSource, Layer};
use crate::store::{Store, Using};
pub use crate::transfer::ground::StoreBase;

/// Opens what `--base` names: inventories, or bundles, which are opened with `access`.
pub fn open(paths: &[PathBuf], access: &Access, ctx: &Ctx) -> Result<Vec<KnownBase>, BoxFault> {
    paths.iter().map(|path| open_one(path, access, ctx)).collect()
}

fn open_one(path: &Path, access: &Access, ctx: &Ctx) -> Result<KnownBase, BoxFault> {
    if path.is_file() {
        let mut file = File::open(path).at("open", path)?;
        let mut start = [0; 8];
        if file.read_exact_at(&mut start, 0).is_ok() && Inventory::recognises(&start) {
            let origin = path.display().to_string();
            access
                .gates
                .iter()
                .filter(|gate| gate.required)
                .try_for_each(|_| Err(SealError::NotSigned(origin.clone())))?;
            let bytes = caps::read_all(&mut file, INDEX_BYTES, "an inventory").at("read", path)?;
            return known(&bytes, path);
        }
    }
    let unsealed = carry::unseal(VolumeSet::open(&[path.to_owned()])?, access, ctx);
    let unsealed = unsealed.map_err(|fault| match (&*fault as &dyn Error).downcast_ref() {
        Some(SealError::Encrypted(what)) => SealError::EncryptedBase(what.clone()).into(),
        _ => fault,
    })?;
    let mut start = [0; 8];
    if unsealed.stream.read_exact_at(&mut start, 0).is_ok() && Inventory::recognises(&start) {
        let size = unsealed.stream.size();
        if size > INDEX_BYTES {
            return Err(BundleError::malformed(unsealed.origin, "an inventory of over 1 GiB").into());
        }
        let mut bytes = vec![0; size as usize];
        unsealed.stream.read_exact_at(&mut bytes, 0).at("read", path)?;
        return known(&bytes, path);
    }
    let source = carry::open_unsealed(unsealed, access)?.source;
    KnownBase::of_bundle(Arc::new(source), ctx)
}

/// What a thin bundle is read with: bundles, and a store.
#[derive(Clone)]
pub struct Bases {
    bundles: Vec<Arc<BundleSource>>,
    store: Option<Arc<Stored>>,
}

/// A store whose layers stay.
struct Stored {
    store: Store,
    contents: StoreBase,
    /// Those of its images, once with each blob they came as.
    layers: HashMap<DiffId, Vec<Layer>>,
    _using: Using,
}

impl Stored {
    fn open(store: Store, ctx: &Ctx) -> Result<Self, BoxFault> {
        let (contents, _using) = (StoreBase::new(store.clone()), store.using(ctx)?);
        let mut layers: HashMap<DiffId, Vec<Layer>> = HashMap::new();
        for image in store.images(ctx)? {
            // Of an image that is damaged the layers that are not can be read all the same.
            let Ok(source) = store.source(&[image], ctx) else { continue };
            for layer in source.images().iter().flat_map(|image| &image.layers) {
                let known = layers.entry(layer.diff_id).or_default();
                if !known.contains(layer) {
                    known.push(layer.clone());
                }
            }
        }
        Ok(Self { store, contents, layers, _using })
    }

    fn layer(&self, diff_id: &DiffId, blob: Option<&Digest>) -> Option<Layer> {
        let alone = || Layer { diff_id: *diff_id, size: None, original: None };
        let known = by_blob(self.layers.get(diff_id).cloned().unwrap_or_default(), blob);
        known.or_else(|| self.contents.has_layer(diff_id).then(alone))
    }

    fn open_layer(&self, layer: &Layer, form: Form) -> Result<Box<dyn Read + Send + '_>, BoxFault> {
        match (form, &layer.original) {
            (Form::Original, Some(original)) if original.digest != layer.diff_id.0 => {
                let path = self.store.layout().blob(&original.digest);
                Ok(Box::new(File::open(&path).at("open", &path)?))
            }
            _ => Ok(self.store.open_tar(&layer.diff_id)?),
        }
    }
}

impl Bases {
    /// Opens the bundles at `paths` with `access`; one that is thin itself is read with those before it, and the store.
    pub fn open(store: Option<Store>, paths: &[PathBuf], access: &Access, ctx: &Ctx) -> Result<Self, BoxFault> {
        let store = store.map(|store| Stored::open(store, ctx).map(Arc::new)).transpose()?;
        let mut bases = Self { bundles: Vec::new(), store };
        for path in paths {
            let mut source = carry::open(VolumeSet::open(std::slice::from_ref(path))?, access, ctx)?.source;
            if source.bundle().index().is_thin() {
                source = source.with_base(Arc::new(bases.clone()))?;
            }
            bases.bundles.push(Arc::new(source));
        }
        Ok(bases)
    }

    fn all(&self) -> impl Iterator<Item = &dyn BaseContents> {
        let bundles = self.bundles.iter().map(|bundle| &**bundle as &dyn BaseContents);
        bundles.chain(self.store.iter().map(|stored| &stored.contents as &dyn BaseContents))
    }
}

impl BaseContents for Bases {
    fn has_layer(&self, diff_id: &DiffId) -> bool {
        self.whole_layer(diff_id, None).is_some()
    }

    fn size_of(&self, id: &ShortId) -> Option<u64> {
        self.all().find_map(|base| base.size_of(id))
    }

    fn read_at(&self, id: &ShortId, offset: u64, buf: &mut [u8]) -> Result<(), BoxFault> {
        let absent = || BundleError::Absent { what: "base content that was here".into() };
        self.all().find(|base| base.size_of(id).is_some()).ok_or_else(absent)?.read_at(id, offset, buf)
    }

    fn whole_layer(&self, diff_id: &DiffId, blob: Option<&Digest>) -> Option<Layer> {
        let in_bundles = self.bundles.iter().filter_map(|bundle| bundle.whole_layer(diff_id, blob));
        let stored = self.store.iter().filter_map(|stored| stored.layer(diff_id, blob));
        by_blob(in_bundles.chain(stored).collect(), blob)
    }

    fn open_whole(&self, layer: &Layer, form: Form) -> Result<Box<dyn Read + Send + '_>, BoxFault> {
        let blob = (form == Form::Original).then_some(layer.original.as_ref()).flatten().map(|blob| blob.digest);
        let has = |known: Layer| blob.is_none_or(|blob| blob_of(&known) == blob);
        let bundle =
            self.bundles.iter().find(|bundle| bundle.whole_layer(&layer.diff_id, blob.as_ref()).is_some_and(has));
        match (bundle, &self.store) {
            (Some(bundle), _) => bundle.open_whole(layer, form),
            (None, Some(stored)) => stored.open_layer(layer, form),
            (None, None) => Err(BundleError::Absent { what: format!("layer {}", layer.diff_id) }.into()),
        }
    }
}

/// The first of the forms of a layer that has the blob, or the first.
fn by_blob(mut layers: Vec<Layer>, blob: Option<&Digest>) -> Option<Layer> {
    let at = layers.iter().position(|layer| Some(&blob_of(layer)) == blob).unwrap_or(0);
    (at < layers.len()).then(|| layers.swap_remove(at))
}

/// What an inventory at `path` says is there.
fn known(bytes: &[u8], path: &Path) -> Result<KnownBase, BoxFault> {
    let named = |error: BundleError| BadInput { origin: path.display().to_string(), source: error.into() };
    Ok(Inventory::parse(bytes).map_err(named)?.as_base(*blake3::hash(bytes).as_bytes()))
}

/// Gives bases of which only IDs are known the contents that the store has, so that what changed is stored as the
/// difference to it.
pub fn reach(bases: &mut [KnownBase], store: &Store, ctx: &Ctx) -> Result<(), BoxFault> {
    let mut bases: Vec<&mut KnownBase> = bases.iter_mut().filter(|base| base.is_out_of_reach()).collect();
    if bases.is_empty() {
        return Ok(());
    }
    let contents: Arc<dyn BaseContents> = Arc::new(StoreBase::new(store.clone()));
    for (place, _) in store.layer_places()? {
        ctx.check()?;
        let files = store.contents_at(place)?;
        for base in &mut bases {
            let known = files.iter().filter(|(id, ..)| base.has(id)).map(|(id, size, path)| (path.clone(), *id, *size));
            let known: Vec<_> = known.collect();
            base.reach(contents.clone(), known);
        }
    }
    Ok(())
}

/// Has `write` write down what a store has. With `pin` what is told of stays, under the inventory's label, until it is
/// unpinned; what was pinned under that label before is let go of only once the new inventory is written.
pub fn inventory(
    store: &Store,
    label: String,
    pin: bool,
    write: impl FnOnce(&Inventory) -> Result<(), BoxFault>,
    ctx: &Ctx,
) -> Result<(), BoxFault> {
    // Nothing that is here goes while a transaction lives. What comes meanwhile is pinned too, and not told of.
    let stays = if pin { Some(store.begin(ctx)?) } else { None };
    let mut inventory = Inventory { label, ..Inventory::default() };
    for (place, diff_id) in store.layer_places()? {
        ctx.check()?;
        if inventory.layers.insert(diff_id) {
            store.contents_at(place)?.iter().for_each(|(id, ..)| inventory.add(id));
        }
    }
    write(&inventory)?;
    if pin {
        store.pin(&inventory.label, ctx)?;
    }
    drop(stays);
    Ok(())
}
