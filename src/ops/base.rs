//! Bases of thin bundles: what is here already, and what is known of the far side.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::load::BadInput;
use crate::base::{AtPath, BoxFault, Ctx, caps};
use crate::bundle::carry::{self, Access};
use crate::bundle::index::INDEX_BYTES;
use crate::bundle::seal::SealError;
use crate::bundle::volume::VolumeSet;
use crate::bundle::{BaseContents, BundleError, Inventory, KnownBase};
use crate::store::Store;
pub use crate::transfer::ground::StoreBase;

/// Opens what `--base` names: inventories, or bundles, which are opened with `access`.
pub fn open(paths: &[PathBuf], access: &Access, ctx: &Ctx) -> Result<Vec<KnownBase>, BoxFault> {
    paths.iter().map(|path| open_one(path, access, ctx)).collect()
}

fn open_one(path: &Path, access: &Access, ctx: &Ctx) -> Result<KnownBase, BoxFault> {
    if path.is_file() {
        let mut file = std::fs::File::open(path).at("open", path)?;
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
    let unsealed = carry::unseal(VolumeSet::open(&[path.to_owned()])?, access, ctx)?;
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
