//! Pins: layers that stay although no image needs them, because somebody was told that they are here (an inventory).
//!
//! `ferry/pins/<hash of the name>` is text: the name, then one chain ID a line. A pin that cannot be read keeps
//! everything: nothing is removed until it is readable or gone.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::error::StoreError;
use super::layout::Layout;
use super::{Store, files, layerdb};
use crate::base::{Ctx, Digest, durable};
use crate::image::{ChainId, DiffId};

/// The largest pin that is read, in bytes: some hundred thousand layers.
const PIN_BYTES: u64 = 16 << 20;
/// The longest name of a pin, in bytes.
const NAME_BYTES: usize = 255;

/// Layers that stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// Its name.
    pub name: String,
    /// Which; those below them stay too.
    pub layers: BTreeSet<ChainId>,
}

impl Store {
    /// Keeps all layers that are here now, under `name`, in the place of what was pinned by that name before. Gives
    /// their diff IDs. Durable when it returns.
    pub fn pin(&self, name: &str, ctx: &Ctx) -> Result<BTreeSet<DiffId>, StoreError> {
        let path = path(&self.layout, name)?;
        let _writing = self.writer(ctx)?;
        files::mkdir(&self.layout.pins(), 0o700)?;
        let mut text = format!("{name}\n");
        let mut diff_ids = BTreeSet::new();
        for chain_id in layerdb::list(&self.layout)? {
            // A layer that cannot be read is no layer to build upon.
            if let Ok(Some(record)) = layerdb::read(&self.layout, chain_id) {
                text += &format!("{}\n", chain_id.0.hex());
                diff_ids.insert(record.diff_id);
            }
        }
        durable::write(&path, text.as_bytes(), 0o600)?;
        Ok(diff_ids)
    }

    /// Lets go of what was pinned under `name`; whether there was such a pin. Nothing is removed by this alone.
    pub fn unpin(&self, name: &str, ctx: &Ctx) -> Result<bool, StoreError> {
        let path = path(&self.layout, name)?;
        if path.symlink_metadata().is_err() {
            return Ok(false);
        }
        let _writing = self.writer(ctx)?;
        files::remove(&path)?;
        durable::sync_dir(&self.layout.pins())?;
        Ok(true)
    }

    /// All pins, by name.
    pub fn pins(&self) -> Result<Vec<Pin>, StoreError> {
        let mut pins = all(&self.layout)?;
        pins.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(pins)
    }
}

fn path(layout: &Layout, name: &str) -> Result<PathBuf, StoreError> {
    if name.is_empty() || name.len() > NAME_BYTES || name.chars().any(char::is_control) {
        let reason = format!("{name:?} is no name for a pin: it is 1 to {NAME_BYTES} bytes without control characters");
        return Err(StoreError::Pin(reason));
    }
    Ok(layout.pins().join(Digest::of(name.as_bytes()).hex()))
}

fn all(layout: &Layout) -> Result<Vec<Pin>, StoreError> {
    let mut pins = Vec::new();
    for name in files::listed(&layout.pins(), |name| Digest::from_hex(name).ok().map(|_| name.to_owned()))? {
        let path = layout.pins().join(name);
        let Some(bytes) = files::read(&path, PIN_BYTES)? else { continue };
        let damaged = |reason: &str| StoreError::Damaged { path: path.clone(), reason: reason.to_owned() };
        let text = String::from_utf8(bytes).map_err(|_| damaged("not text"))?;
        let mut lines = text.lines();
        let name = lines.next().ok_or_else(|| damaged("it is empty"))?.to_owned();
        let ids = lines.map(|line| Digest::from_hex(line).map(ChainId).map_err(|_| damaged("not a list of layers")));
        pins.push(Pin { name, layers: ids.collect::<Result<_, _>>()? });
    }
    Ok(pins)
}

/// Every layer that some pin keeps; those below are not listed beside it when the pin does not.
pub(super) fn pinned(layout: &Layout) -> Result<BTreeSet<ChainId>, StoreError> {
    Ok(all(layout)?.into_iter().flat_map(|pin| pin.layers).collect())
}
