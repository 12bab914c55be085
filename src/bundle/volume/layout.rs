//! Where everything lies in the volumes of a set: arithmetic on a few numbers, nothing else.

use std::ops::Range;

use super::head::{HEAD, flag};

/// The length of a hash in bytes.
pub const HASH: u64 = 32;

/// A run of bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first byte.
    pub offset: u64,
    /// How many.
    pub len: u64,
}

/// The shape of the data volumes. Volumes are counted from 0 here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// log2 of the block size.
    pub block_log: u8,
    /// See [`flag`]; without [`flag::PARITY`].
    pub flags: u8,
    /// Data blocks of a full volume, 0 without a limit.
    pub full: u64,
    /// The length of the stream in bytes.
    pub stream: u64,
    /// Data volumes.
    pub volumes: u32,
}

impl Layout {
    /// The layout of a stream. Nothing when the numbers make no sense together.
    pub fn new(block_log: u8, flags: u8, full: u64, stream: u64) -> Option<Self> {
        // Far above any medium, and far enough below 2^64 that no sum here overflows.
        const MOST: u64 = 1 << 60;
        if stream > MOST || full > MOST >> block_log {
            return None;
        }
        let volumes = if full == 0 {
            1
        } else {
            let capacity = (full << block_log).checked_sub(HEAD).filter(|capacity| *capacity > 0)?;
            u32::try_from(stream.div_ceil(capacity).max(1)).ok()?
        };
        Some(Self { block_log, flags, full, stream, volumes })
    }

    /// Bytes of a block.
    pub fn block(&self) -> u64 {
        1 << self.block_log
    }

    /// Hashes of a full piece.
    pub fn per_piece(&self) -> u64 {
        self.block() / HASH
    }

    /// Whether parts begin at multiples of the block size.
    pub fn aligned(&self) -> bool {
        self.flags & flag::ALIGNED != 0
    }

    /// Bytes of the stream before volume `v`.
    pub fn stream_start(&self, v: u32) -> u64 {
        if v == 0 { 0 } else { u64::from(v) * ((self.full << self.block_log) - HEAD) }
    }

    /// Bytes of the stream in volume `v`.
    pub fn stream_len(&self, v: u32) -> u64 {
        let end = if v + 1 == self.volumes { self.stream } else { self.stream_start(v + 1) };
        end - self.stream_start(v)
    }

    /// Where byte `offset` of the stream lies: the volume, and the byte of its file.
    pub fn locate(&self, offset: u64) -> (u32, u64) {
        if self.volumes == 1 {
            return (0, HEAD + offset);
        }
        let capacity = (self.full << self.block_log) - HEAD;
        let v = (offset / capacity).min(u64::from(self.volumes) - 1);
        (v as u32, HEAD + offset - v * capacity)
    }

    /// Data blocks of volume `v`.
    pub fn blocks(&self, v: u32) -> u64 {
        (HEAD + self.stream_len(v)).div_ceil(self.block())
    }

    /// Data blocks of the whole set.
    pub fn all_blocks(&self) -> u64 {
        let last = self.volumes - 1;
        u64::from(last) * self.full + self.blocks(last)
    }

    /// The volume of data block `d` of the set, and its number in there.
    pub fn volume_of_block(&self, d: u64) -> (u32, u64) {
        let v = d.checked_div(self.full).unwrap_or(0).min(u64::from(self.volumes) - 1);
        (v as u32, d - v * self.full)
    }

    /// The number in the set of the first data block of volume `v`.
    pub fn first_block(&self, v: u32) -> u64 {
        u64::from(v) * self.full
    }

    /// Where data block `b` of volume `v` lies in its file.
    pub fn block_extent(&self, v: u32, b: u64) -> Extent {
        let offset = b << self.block_log;
        Extent { offset, len: self.block().min(self.body(v) - offset) }
    }

    /// Bytes of the body of volume `v`.
    pub fn body(&self, v: u32) -> u64 {
        if self.aligned() { self.blocks(v) << self.block_log } else { HEAD + self.stream_len(v) }
    }

    /// Pieces of the table of volume `v`.
    pub fn pieces(&self, v: u32) -> u64 {
        self.blocks(v).div_ceil(self.per_piece())
    }

    /// The number in the set of the first piece of volume `v`.
    pub fn first_piece(&self, v: u32) -> u64 {
        if self.full == 0 { 0 } else { u64::from(v) * self.full.div_ceil(self.per_piece()) }
    }

    /// The volume of piece `k` of the set, and its number in there.
    pub fn volume_of_piece(&self, k: u64) -> (u32, u64) {
        let each = self.full.div_ceil(self.per_piece());
        let v = k.checked_div(each).unwrap_or(0).min(u64::from(self.volumes) - 1);
        (v as u32, k - v * each)
    }

    /// Pieces in all data volumes.
    pub fn all_pieces(&self) -> u64 {
        self.first_piece(self.volumes - 1) + self.pieces(self.volumes - 1)
    }

    /// Where piece `p` of volume `v` lies in its file.
    pub fn piece_extent(&self, v: u32, p: u64) -> Extent {
        let offset = self.body(v) + (p << self.block_log);
        let hashes = (self.blocks(v) - p * self.per_piece()).min(self.per_piece());
        Extent { offset, len: if self.aligned() { self.block() } else { hashes * HASH } }
    }

    /// Where the table of volume `v` ends.
    pub fn table_end(&self, v: u32) -> u64 {
        let last = self.piece_extent(v, self.pieces(v) - 1);
        last.offset + last.len
    }

    /// The length of a frame around a record of `record` bytes.
    pub fn frame_len(&self, record: usize) -> usize {
        let bare = super::head::FRAME + record;
        if self.aligned() { bare.next_multiple_of(1 << self.block_log) } else { bare }
    }
}

/// The shape of the parity. Parity volumes are counted from 0 here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParityLayout {
    /// What it protects.
    pub data: Layout,
    /// Parity volumes; 0 when the area is in the one data volume.
    pub volumes: u32,
    /// Stripes.
    pub stripes: u64,
    /// Parity blocks of a stripe.
    pub per_stripe: u64,
}

/// The most symbols of one code word: the field has no more elements.
const SYMBOLS: u64 = 65_536;

impl ParityLayout {
    /// Parity of `blocks` blocks in all, at least, for `data`; in `volumes` parity volumes, 0 for an area in the data volume.
    pub fn new(data: Layout, blocks: u64, volumes: u32) -> Self {
        let all = data.all_blocks();
        let mut stripes = 1;
        while all.div_ceil(stripes) + blocks.div_ceil(stripes).max(1).next_power_of_two() > SYMBOLS {
            stripes += 1;
        }
        Self { data, volumes, stripes, per_stripe: blocks.div_ceil(stripes).max(1) }
    }

    /// Takes numbers from a record. Nothing when they do not follow from each other.
    pub fn from_record(data: Layout, volumes: u32, stripes: u64, per_stripe: u64) -> Option<Self> {
        let all = data.all_blocks();
        if stripes == 0 || stripes > all || per_stripe == 0 || per_stripe > SYMBOLS / 2 || !data.aligned() {
            return None;
        }
        let layout = Self { data, volumes, stripes, per_stripe };
        let fits = layout.originals() + per_stripe.next_power_of_two() <= SYMBOLS;
        let enough = layout.all_blocks() >= u64::from(volumes);
        let placed = volumes > 0 || data.volumes == 1;
        (fits && placed && enough && layout.recovery_shards().is_some()).then_some(layout)
    }

    /// Originals of a stripe.
    pub fn originals(&self) -> u64 {
        self.data.all_blocks().div_ceil(self.stripes)
    }

    /// Parity blocks of the set.
    pub fn all_blocks(&self) -> u64 {
        self.stripes * self.per_stripe
    }

    /// Files with a parity area.
    pub fn areas(&self) -> u32 {
        self.volumes.max(1)
    }

    fn share(&self, all: u64, i: u32) -> Range<u64> {
        let cut = |i: u32| (u128::from(all) * u128::from(i) / u128::from(self.areas())) as u64;
        cut(i)..cut(i + 1)
    }

    /// Parity blocks of area `i`.
    pub fn blocks(&self, i: u32) -> Range<u64> {
        self.share(self.all_blocks(), i)
    }

    /// The area of parity block `q`.
    pub fn area_of_block(&self, q: u64) -> u32 {
        // The guess is off by one at most, by the rounding of the shares.
        let guess = (u128::from(q) * u128::from(self.areas()) / u128::from(self.all_blocks())) as u32;
        if self.blocks(guess).end <= q { guess + 1 } else { guess }
    }

    /// Pieces of the table of area `i`.
    pub fn pieces(&self, i: u32) -> u64 {
        let blocks = self.blocks(i);
        (blocks.end - blocks.start).div_ceil(self.data.per_piece())
    }

    /// Pieces of the tables of all areas, Kp.
    pub fn all_pieces(&self) -> u64 {
        (0..self.areas()).map(|i| self.pieces(i)).sum()
    }

    /// Pieces of areas before `i`.
    pub fn first_piece(&self, i: u32) -> u64 {
        (0..i).map(|i| self.pieces(i)).sum()
    }

    /// Recovery shards of the tables, R. Nothing when there are too many tables for one code word.
    pub fn recovery_shards(&self) -> Option<u64> {
        let pieces = self.data.all_pieces().checked_add(self.all_pieces())?;
        if pieces > SYMBOLS / 2 {
            return None;
        }
        Some((3 * pieces + 8).min(SYMBOLS - pieces.next_power_of_two()))
    }

    /// Recovery shards of area `i`: those in front of the parity blocks and those behind.
    pub fn shards(&self, i: u32) -> (Range<u64>, Range<u64>) {
        let share = self.share(self.recovery_shards().unwrap_or(0), i);
        let middle = share.start + (share.end - share.start).div_ceil(2);
        (share.start..middle, middle..share.end)
    }

    /// Where the parts of area `i` lie in its file, with frames of `frame` bytes.
    pub fn area(&self, i: u32, frame: u64) -> Area {
        let block = self.data.block();
        let start = if self.volumes == 0 { self.data.table_end(0) } else { block };
        let (front, back) = self.shards(i);
        let blocks = self.blocks(i);
        let pieces_at = start + 2 * frame;
        let front_at = pieces_at + self.pieces(i) * block;
        let blocks_at = front_at + (front.end - front.start) * block;
        let back_at = blocks_at + (blocks.end - blocks.start) * block;
        let frames_at = back_at + (back.end - back.start) * block;
        Area { start, pieces_at, front_at, blocks_at, back_at, frames_at, end: frames_at + 2 * frame }
    }
}

/// The offsets of the parts of one parity area in its file, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// The first pair of frames.
    pub start: u64,
    /// The table of the area's parity blocks.
    pub pieces_at: u64,
    /// The first half of the recovery shards.
    pub front_at: u64,
    /// The parity blocks.
    pub blocks_at: u64,
    /// The second half of the recovery shards.
    pub back_at: u64,
    /// The second pair of frames.
    pub frames_at: u64,
    /// The end of the file.
    pub end: u64,
}
