//! An inventory: which layers and contents a host has, in a few bytes each (docs/format/bundle.md, "Inventory").

use std::collections::{BTreeSet, HashSet};

use super::base::KnownBase;
use super::error::{BundleError, Doing};
use super::frame;
use super::index::{Base, BaseKind, ID_LENGTH, INDEX_BYTES, ShortId};
use super::level::Level;
use crate::base::codec::{Broken, Take, put_bytes, put_vu};
use crate::base::{ContentId, Digest};
use crate::image::DiffId;

/// The newest format of inventories this program reads.
const FORMAT: u16 = 1;
const MAGIC: &[u8; 8] = b"FERRYIV\n";
const END: &[u8; 8] = b"FERRYEN\n";
const HEADER: usize = 16;
/// Length decompressed, checksum, end.
const TRAILER: usize = 48;

/// What a host has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    /// A name for people.
    pub label: String,
    /// Layers.
    pub layers: BTreeSet<DiffId>,
    /// Contents, [`ID_LENGTH`] bytes of each ID.
    pub contents: BTreeSet<ShortId>,
}

impl Inventory {
    /// Adds a content.
    pub fn add(&mut self, id: &ContentId) {
        self.contents.insert(ShortId::of(id, ID_LENGTH));
    }

    /// Whether a file begins like an inventory.
    pub fn recognises(first: &[u8]) -> bool {
        first.starts_with(MAGIC)
    }

    /// The file's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, BundleError> {
        let mut raw = Vec::new();
        put_bytes(&mut raw, self.label.as_bytes());
        put_vu(&mut raw, self.layers.len() as u64);
        self.layers.iter().for_each(|layer| raw.extend_from_slice(layer.0.as_bytes()));
        raw.push(ID_LENGTH as u8);
        put_vu(&mut raw, self.contents.len() as u64);
        self.contents.iter().for_each(|id| raw.extend_from_slice(&id.0[..ID_LENGTH]));
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&[1, 0, 1, 0, 0, 0, 0, 0]);
        out.append(&mut frame::compress(Level::FAST, &raw, &[]).doing(|| "compress the inventory".into())?);
        out.extend_from_slice(&(raw.len() as u64).to_le_bytes());
        let check = blake3::hash(&out);
        out.extend_from_slice(check.as_bytes());
        out.extend_from_slice(END);
        Ok(out)
    }

    /// Reads an inventory.
    pub fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        let broken = |what: Broken| BundleError::malformed("inventory", what);
        if bytes.len() < HEADER + TRAILER || !Self::recognises(bytes) {
            return Err(broken("it does not begin like one, or is cut short"));
        }
        let oldest = u16::from_le_bytes([bytes[10], bytes[11]]);
        if oldest > FORMAT {
            return Err(BundleError::Newer { what: format!("inventory format {oldest}") });
        }
        let (body, trailer) = bytes.split_at(bytes.len() - TRAILER);
        if trailer[40..] != *END {
            return Err(broken("it is cut short"));
        }
        if blake3::hash(&bytes[..bytes.len() - 40]).as_bytes() != &trailer[8..40] {
            return Err(BundleError::Damaged { place: "inventory".into() });
        }
        let mut length = [0; 8];
        length.copy_from_slice(&trailer[..8]);
        let length = u64::from_le_bytes(length);
        if length > INDEX_BYTES {
            return Err(broken("it is over 1 GiB"));
        }
        let raw = frame::decompress(&body[HEADER..], length as usize, &[]).map_err(broken)?;
        Self::take(&mut Take(&raw)).map_err(broken)
    }

    fn take(t: &mut Take<'_>) -> Result<Self, Broken> {
        let mut inventory = Self { label: t.text()?.to_owned(), ..Self::default() };
        for _ in 0..t.count(32)? {
            let layer = DiffId(Digest::from_bytes(t.array()?));
            if inventory.layers.last().is_some_and(|last| *last >= layer) {
                return Err("layers that are not in ascending order");
            }
            inventory.layers.insert(layer);
        }
        let length = usize::from(t.u8()?);
        if !(ID_LENGTH..=32).contains(&length) {
            return Err("IDs of a length other than 16 to 32");
        }
        let mut last: Option<&[u8]> = None;
        for _ in 0..t.count(length)? {
            let id = t.raw(length)?;
            if last.is_some_and(|last| last >= id) {
                return Err("IDs that are not in ascending order");
            }
            last = Some(id);
            let mut short = [0; 32];
            short[..ID_LENGTH].copy_from_slice(&id[..ID_LENGTH]);
            inventory.contents.insert(ShortId(short));
        }
        t.end()?;
        Ok(inventory)
    }

    /// As a base to write against; `identity` is the hash of the file.
    pub fn as_base(&self, identity: [u8; 32]) -> KnownBase {
        let base = Base { kind: BaseKind::Inventory, identity, label: self.label.clone() };
        let layers: HashSet<DiffId> = self.layers.iter().copied().collect();
        KnownBase::of_ids(base, layers, self.contents.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inventory_survives_and_a_damaged_one_is_refused() {
        let mut inventory = Inventory { label: "site".into(), ..Inventory::default() };
        inventory.layers.insert(DiffId(Digest::of(b"layer")));
        (0..100u8).for_each(|n| inventory.add(&ContentId::of(&[n])));
        let bytes = inventory.encode().unwrap();
        assert_eq!(Inventory::parse(&bytes).unwrap(), inventory);
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            // The number of the format alone may be higher.
            assert!(Inventory::parse(&bad).is_err() || (8..10).contains(&at), "byte {at}");
            assert!(Inventory::parse(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
