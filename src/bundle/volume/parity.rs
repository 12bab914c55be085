//! The second pass: parity blocks and recovery shards over the volumes that were written.

use super::code::{self, Budget, Form, Shape};
use super::error::VolumeError;
use super::layout::{HASH, Layout, ParityLayout};
use super::part::Part;
use super::record::{Hash, ParityRecord, Record};
use super::size::{ParityShare, VolumeSize};
use crate::base::Ctx;

/// The shape of the parity of a set whose frames have at most `reserve` bytes. Nothing when it does not fit.
pub fn plan(data: Layout, share: ParityShare, size: Option<VolumeSize>, reserve: u64) -> Option<ParityLayout> {
    let blocks = share.blocks(data.all_blocks()).max(1);
    let Some(size) = size else {
        return Some(ParityLayout::new(data, blocks, 0)).filter(|layout| layout.recovery_shards().is_some());
    };
    let frame = reserve.next_multiple_of(data.block());
    let least = (blocks * data.block() / size.bytes()).max(1);
    for volumes in u32::try_from(least).ok()?..=super::writer::FILES_MAX {
        let layout = ParityLayout::new(data, blocks, volumes);
        layout.recovery_shards()?;
        if layout.all_blocks() < u64::from(volumes) {
            return None;
        }
        // Shares differ by one; the tables' pieces follow them.
        if (0..volumes).all(|i| layout.area(i, frame).end <= size.bytes()) {
            return Some(layout);
        }
    }
    None
}

/// The code over the data blocks.
pub fn block_shape(layout: &ParityLayout) -> Shape {
    Shape {
        form: Form::High,
        originals: layout.data.all_blocks(),
        recovery: layout.all_blocks(),
        stripes: layout.stripes,
        symbol: layout.data.block(),
    }
}

/// The code over the pieces of all tables.
pub fn table_shape(layout: &ParityLayout) -> Shape {
    Shape {
        form: Form::Low,
        originals: layout.data.all_pieces() + layout.all_pieces(),
        recovery: layout.recovery_shards().unwrap_or(0),
        stripes: 1,
        symbol: layout.data.block(),
    }
}

/// Where the symbols of both codes lie: the file, counted from 0 over data and parity volumes, and the offset in it.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// The shape.
    pub layout: &'a ParityLayout,
    /// The length of a frame in bytes.
    pub frame: u64,
}

impl Places<'_> {
    fn area_file(&self, i: u32) -> u32 {
        if self.layout.volumes == 0 { 0 } else { self.layout.data.volumes + i }
    }

    /// Data block `d`.
    pub fn block(&self, d: u64) -> (u32, u64) {
        let (v, b) = self.layout.data.volume_of_block(d);
        (v, b << self.layout.data.block_log)
    }

    /// Parity block `q`.
    pub fn parity(&self, q: u64) -> (u32, u64) {
        let i = self.layout.area_of_block(q);
        let at = self.layout.area(i, self.frame).blocks_at;
        (self.area_file(i), at + ((q - self.layout.blocks(i).start) << self.layout.data.block_log))
    }

    /// Piece `k`: data volumes first, then parity areas.
    pub fn piece(&self, k: u64) -> (u32, u64) {
        let data = &self.layout.data;
        if k < data.all_pieces() {
            let (v, p) = data.volume_of_piece(k);
            return (v, data.piece_extent(v, p).offset);
        }
        let (mut i, mut p) = (0, k - data.all_pieces());
        while i + 1 < self.layout.areas() && p >= self.layout.pieces(i) {
            p -= self.layout.pieces(i);
            i += 1;
        }
        (self.area_file(i), self.layout.area(i, self.frame).pieces_at + (p << data.block_log))
    }

    /// Recovery shard `s` of the tables.
    pub fn shard(&self, s: u64) -> (u32, u64) {
        let mut i = 0;
        while i + 1 < self.layout.areas() && self.layout.shards(i).1.end <= s {
            i += 1;
        }
        let (front, back) = self.layout.shards(i);
        let area = self.layout.area(i, self.frame);
        let block = self.layout.data.block();
        let offset = if s < front.end {
            area.front_at + (s - front.start) * block
        } else {
            area.back_at + (s - back.start) * block
        };
        (self.area_file(i), offset)
    }

    /// Places looked up once: [`Places::parity`] and the like walk over areas, which the inner loop must not.
    pub fn table(&self, count: u64, place: impl Fn(&Self, u64) -> (u32, u64)) -> Vec<(u32, u64)> {
        (0..count).map(|n| place(self, n)).collect()
    }
}

/// Computes and writes the parity of the data volumes in `parts`, whose parity volumes follow them, and adds its
/// description to the record.
pub fn write(
    record: &mut Record,
    layout: ParityLayout,
    parts: &[Part],
    budget: Budget,
    ctx: &Ctx,
) -> Result<(), VolumeError> {
    let hashes = (layout.all_pieces() as usize, layout.recovery_shards().unwrap_or(0) as usize);
    // The frame's length depends on how many hashes there are, not on which.
    record.parity = Some(ParityRecord { layout, pieces: vec![[0; 32]; hashes.0], shards: vec![[0; 32]; hashes.1] });
    let places = Places { layout: &layout, frame: record.frame_len() as u64 };
    let part = |file: u32| &parts[file as usize];

    let task = ctx.begin("Computing parity", "", Some(layout.data.all_blocks() << layout.data.block_log));
    let parity = places.table(layout.all_blocks(), Places::parity);
    let read = |d: u64, at: u64, bytes: &mut [u8]| {
        let (file, offset) = places.block(d);
        task.advance(bytes.len() as u64)?;
        part(file).read_at(bytes, offset + at)
    };
    let put = |q: u64, at: u64, bytes: &[u8]| {
        let (file, offset) = parity[q as usize];
        part(file).write_at(bytes, offset + at).map(drop)
    };
    code::encode(block_shape(&layout), &|_| true, &read, &put, budget, ctx)?;

    let size = layout.data.block() as usize;
    let mut block = vec![0; size];
    let mut pieces: Vec<Hash> = Vec::with_capacity(hashes.0);
    for i in 0..layout.areas() {
        let range = layout.blocks(i);
        let mut table = Vec::with_capacity(((range.end - range.start) * HASH) as usize);
        for q in range {
            ctx.check()?;
            let (file, offset) = parity[q as usize];
            part(file).read_at(&mut block, offset)?;
            table.extend_from_slice(blake3::hash(&block).as_bytes());
        }
        table.resize(table.len().next_multiple_of(size), 0);
        for piece in table.chunks(size) {
            let (file, offset) = places.piece(layout.data.all_pieces() + pieces.len() as u64);
            part(file).write_at(piece, offset)?;
            pieces.push(*blake3::hash(piece).as_bytes());
        }
    }

    let shape = table_shape(&layout);
    let piece_places = places.table(shape.originals, Places::piece);
    let shard_places = places.table(shape.recovery, Places::shard);
    let read = |k: u64, at: u64, bytes: &mut [u8]| {
        let (file, offset) = piece_places[k as usize];
        part(file).read_at(bytes, offset + at)
    };
    let put = |s: u64, at: u64, bytes: &[u8]| {
        let (file, offset) = shard_places[s as usize];
        part(file).write_at(bytes, offset + at).map(drop)
    };
    code::encode(shape, &|_| true, &read, &put, budget, ctx)?;
    let mut shards = Vec::with_capacity(hashes.1);
    for (file, offset) in &shard_places {
        part(*file).read_at(&mut block, *offset)?;
        shards.push(*blake3::hash(&block).as_bytes());
    }
    record.parity = Some(ParityRecord { layout, pieces, shards });
    task.complete();
    Ok(())
}
