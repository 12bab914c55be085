//! What the bytes of a volume file are, in order: what verify goes through and repair writes again.

use super::head::{Head, flag, frame};
use super::layout::Extent;
use super::record::{Hash, Record};

/// One thing in a volume file that is checked, lost or repaired as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// The head of a parity volume.
    Head,
    /// A frame.
    Frame,
    /// A data block of the set.
    Block(u64),
    /// A piece of a table: those of data volumes first.
    Piece(u64),
    /// A parity block.
    Parity(u64),
    /// A recovery shard of the tables.
    Shard(u64),
}

/// The units of volume `number`, from the first byte of its file to the last.
pub fn units(record: &Record, number: u32) -> Vec<(Unit, Extent)> {
    let layout = &record.core.layout;
    let block = layout.block();
    let frame = record.frame_len() as u64;
    let v = number - 1;
    let mut units = Vec::new();
    if v < layout.volumes {
        let (first, piece) = (layout.first_block(v), layout.first_piece(v));
        units.extend((0..layout.blocks(v)).map(|b| (Unit::Block(first + b), layout.block_extent(v, b))));
        units.extend((0..layout.pieces(v)).map(|p| (Unit::Piece(piece + p), layout.piece_extent(v, p))));
    } else {
        units.push((Unit::Head, Extent { offset: 0, len: block }));
    }
    let area = match &record.parity {
        Some(parity) if v >= layout.volumes => Some((parity.layout, v - layout.volumes)),
        Some(parity) if parity.layout.volumes == 0 => Some((parity.layout, 0)),
        _ => None,
    };
    let mut at = units.last().map_or(0, |(_, last)| last.offset + last.len);
    let mut push = |unit, len| {
        units.push((unit, Extent { offset: at, len }));
        at += len;
    };
    if let Some((parity, i)) = area {
        push(Unit::Frame, frame);
        push(Unit::Frame, frame);
        let piece = layout.all_pieces() + parity.first_piece(i);
        (0..parity.pieces(i)).for_each(|p| push(Unit::Piece(piece + p), block));
        let (front, back) = parity.shards(i);
        front.for_each(|s| push(Unit::Shard(s), block));
        parity.blocks(i).for_each(|q| push(Unit::Parity(q), block));
        back.for_each(|s| push(Unit::Shard(s), block));
    }
    push(Unit::Frame, frame);
    if record.parity.is_some() {
        push(Unit::Frame, frame);
    }
    units
}

/// What the record says a piece must hash to.
pub fn piece_hash(record: &Record, k: u64) -> Option<&Hash> {
    let data = record.core.pieces.len() as u64;
    if k < data {
        return record.core.pieces.get(k as usize);
    }
    record.parity.as_ref()?.pieces.get((k - data) as usize)
}

/// The blocks whose hashes piece `k` holds, in order.
pub fn blocks_of_piece(record: &Record, k: u64) -> Vec<Unit> {
    let layout = &record.core.layout;
    let per = layout.per_piece();
    let Some(mut p) = k.checked_sub(layout.all_pieces()) else {
        let (v, p) = layout.volume_of_piece(k);
        let end = layout.blocks(v).min((p + 1) * per);
        return (p * per..end).map(|b| Unit::Block(layout.first_block(v) + b)).collect();
    };
    let Some(parity) = &record.parity else { return Vec::new() };
    for i in 0..parity.layout.areas() {
        let pieces = parity.layout.pieces(i);
        if p < pieces {
            let all = parity.layout.blocks(i);
            return (all.start + p * per..all.end.min(all.start + (p + 1) * per)).map(Unit::Parity).collect();
        }
        p -= pieces;
    }
    Vec::new()
}

/// Piece `k` made of the hashes of its blocks, when it is the one that the record promises.
pub fn piece_of_hashes(record: &Record, k: u64, hashes: &[Hash]) -> Option<Vec<u8>> {
    let layout = &record.core.layout;
    let mut piece = hashes.as_flattened().to_vec();
    if layout.aligned() {
        piece.resize(layout.block() as usize, 0);
    }
    (Some(blake3::hash(&piece).as_bytes()) == piece_hash(record, k)).then_some(piece)
}

/// The bytes of a unit that follows from the record alone.
pub fn fixed(record: &Record, number: u32, unit: Unit) -> Option<Vec<u8>> {
    let layout = &record.core.layout;
    match unit {
        Unit::Head => {
            let flags = layout.flags | flag::PARITY;
            let head = Head { block_log: layout.block_log, flags, number, set: record.core.set, full: layout.full };
            let mut bytes = head.encode().to_vec();
            bytes.resize(layout.block() as usize, 0);
            Some(bytes)
        }
        Unit::Frame => Some(frame(&record.encode(), number, record.frame_len())),
        _ => None,
    }
}

/// The pieces of all tables of a set, as far as they are known and right.
#[derive(Debug, Clone)]
pub struct Tables(pub Vec<Option<Vec<u8>>>);

impl Tables {
    /// Piece `k` as it lies in its file.
    pub fn piece(&self, k: u64) -> Option<&[u8]> {
        self.0.get(k as usize)?.as_deref()
    }

    fn entry(&self, piece: u64, hash: u64) -> Option<Hash> {
        let start = hash as usize * 32;
        self.piece(piece)?.get(start..start + 32)?.try_into().ok()
    }

    /// What a unit must hash to; nothing for heads and frames, which follow from the record.
    pub fn hash_of(&self, record: &Record, unit: Unit) -> Option<Hash> {
        let layout = &record.core.layout;
        let per = layout.per_piece();
        let parity = record.parity.as_ref();
        match unit {
            Unit::Block(d) => {
                let (v, b) = layout.volume_of_block(d);
                self.entry(layout.first_piece(v) + b / per, b % per)
            }
            Unit::Piece(k) => piece_hash(record, k).copied(),
            Unit::Shard(s) => parity?.shards.get(s as usize).copied(),
            Unit::Parity(q) => {
                let i = parity?.layout.area_of_block(q);
                let n = q - parity?.layout.blocks(i).start;
                self.entry(layout.all_pieces() + parity?.layout.first_piece(i) + n / per, n % per)
            }
            Unit::Head | Unit::Frame => None,
        }
    }
}
