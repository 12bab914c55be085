//! Bases of thin bundles: what is here already, and what is known of the far side.

use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::base::{AtPath, BoxFault, Ctx, caps};
use crate::bundle::carry::{self, Access};
use crate::bundle::index::{ID_LENGTH, INDEX_BYTES, ShortId};
use crate::bundle::volume::VolumeSet;
use crate::bundle::{BaseContents, Inventory, KnownBase};
use crate::image::DiffId;
use crate::store::Store;

/// Opens what `--base` names: inventories, or bundles, which are opened with `access`.
pub fn open(paths: &[PathBuf], access: &Access, threads: usize, ctx: &Ctx) -> Result<Vec<KnownBase>, BoxFault> {
    paths.iter().map(|path| open_one(path, access, threads, ctx)).collect()
}

fn open_one(path: &Path, access: &Access, threads: usize, ctx: &Ctx) -> Result<KnownBase, BoxFault> {
    if path.is_file() {
        let mut file = std::fs::File::open(path).at("open", path)?;
        let mut start = [0; 8];
        if file.read_exact_at(&mut start, 0).is_ok() && Inventory::recognises(&start) {
            let bytes = caps::read_all(&mut file, INDEX_BYTES, "an inventory").at("read", path)?;
            return Ok(Inventory::parse(&bytes)?.as_base(*blake3::hash(&bytes).as_bytes()));
        }
    }
    let set = VolumeSet::open(&[path.to_owned()])?;
    let source = carry::open(set, access, ctx)?.source;
    KnownBase::of_bundle(Arc::new(source), threads, ctx)
}

/// What a store has.
pub fn inventory(store: &Store, label: String, ctx: &Ctx) -> Result<Inventory, BoxFault> {
    let layers: BTreeSet<DiffId> = store.diff_ids()?;
    let mut inventory = Inventory { label, layers, ..Inventory::default() };
    for diff_id in inventory.layers.clone() {
        ctx.check()?;
        for (id, ..) in store.contents(&diff_id)? {
            inventory.add(&id);
        }
    }
    Ok(inventory)
}

/// Where a content lies: a layer, the path there, its size.
type Place = (DiffId, Box<[u8]>, u64);

/// The contents of a store, by their IDs. The lists are read when the first is asked for.
pub struct StoreBase {
    store: Store,
    places: OnceLock<(BTreeSet<DiffId>, HashMap<ShortId, Place>)>,
}

impl StoreBase {
    /// The contents of `store`.
    pub fn new(store: Store) -> Self {
        Self { store, places: OnceLock::new() }
    }

    fn places(&self) -> &(BTreeSet<DiffId>, HashMap<ShortId, Place>) {
        self.places.get_or_init(|| {
            let layers = self.store.diff_ids().unwrap_or_default();
            let mut places = HashMap::new();
            for diff_id in &layers {
                // What cannot be read is not there: the bundle that needs it says so.
                for (id, size, path) in self.store.contents(diff_id).unwrap_or_default() {
                    let place = (*diff_id, Box::from(path), size);
                    places.entry(ShortId::of(&id, ID_LENGTH)).or_insert(place);
                }
            }
            (layers, places)
        })
    }
}

impl BaseContents for StoreBase {
    fn has_layer(&self, diff_id: &DiffId) -> bool {
        self.places().0.contains(diff_id)
    }

    fn size_of(&self, id: &ShortId) -> Option<u64> {
        self.places().1.get(id).map(|(.., size)| *size)
    }

    fn read_at(&self, id: &ShortId, offset: u64, buf: &mut [u8]) -> Result<(), BoxFault> {
        let absent = || crate::bundle::BundleError::Absent { what: "base content that was here".into() };
        let (diff_id, path, _) = self.places().1.get(id).ok_or_else(absent)?;
        let file = self.store.open_content(diff_id, path)?;
        file.read_exact_at(buf, offset).at("read", String::from_utf8_lossy(path).as_ref())?;
        Ok(())
    }
}
