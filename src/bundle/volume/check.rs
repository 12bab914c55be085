//! Verify: every volume read once from its first byte to its last, damage located to the block.

use std::path::PathBuf;

use super::code::{self, Budget, Erased};
use super::error::VolumeError;
use super::find::Volume;
use super::layout::Extent;
use super::parity::{block_shape, table_shape};
use super::record::{Hash, Record};
use super::set::VolumeSet;
use super::units::{Unit, blocks_of_piece, fixed, piece_hash, piece_of_hashes, units};
use crate::base::Ctx;

/// So many blocks a record may speak of, whatever is there: 64 GiB in blocks of 64 KiB.
const BLOCKS_BELIEVED: u64 = 1 << 20;
/// And so many for each block that is there: more than this missing is beyond any parity, and not worth the memory.
const BLOCKS_EACH: u64 = 16;

/// How a volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Every byte is right.
    Intact,
    /// Some are not.
    Damaged,
    /// It is not there.
    Missing,
}

/// What verify found in one volume.
#[derive(Debug, Clone)]
pub struct VolumeReport {
    /// Its number, from 1; parity volumes follow data volumes.
    pub number: u32,
    /// Whether it is a parity volume.
    pub parity: bool,
    /// Its file, or the one it should be.
    pub path: PathBuf,
    /// How it is.
    pub state: State,
    /// Bytes it should have.
    pub expected: u64,
    /// Bytes it has.
    pub len: u64,
    /// Damaged runs of bytes, in order.
    pub damaged: Vec<Extent>,
}

/// What verify found.
#[derive(Debug, Clone)]
pub struct Report {
    /// Every volume of the set.
    pub volumes: Vec<VolumeReport>,
    /// Bytes of a block.
    pub block: u64,
    /// Data blocks of the set, and how many of them are damaged, missing or cannot be checked.
    pub blocks: u64,
    /// See [`Report::blocks`].
    pub lost_blocks: u64,
    /// Data blocks among the lost ones that cannot be checked, because their table is damaged.
    pub unchecked_blocks: u64,
    /// Parity blocks of the set.
    pub parity_blocks: u64,
    /// How many of them are lost.
    pub lost_parity: u64,
    /// Data blocks that the parity cannot bring back; 0 when all can be repaired.
    pub beyond_repair: u64,
}

impl Report {
    /// Nothing is wrong.
    pub fn intact(&self) -> bool {
        self.volumes.iter().all(|volume| volume.state == State::Intact)
    }

    /// All that is wrong can be repaired.
    pub fn repairable(&self) -> bool {
        self.beyond_repair == 0
    }

    /// What is lost, and where: for the error of a repair that cannot be done.
    pub fn losses(&self) -> String {
        // A line for people; the report has every place.
        const RUNS: usize = 4;
        let mut parts = Vec::new();
        for volume in self.volumes.iter().filter(|volume| volume.state != State::Intact) {
            let name = volume.path.file_name().unwrap_or(volume.path.as_os_str()).display().to_string();
            if volume.state == State::Missing {
                parts.push(format!("{name} is missing ({} bytes)", volume.expected));
                continue;
            }
            let bytes: u64 = volume.damaged.iter().map(|run| run.len).sum();
            let runs: Vec<String> = volume.damaged.iter().take(RUNS).map(range).collect();
            let more = volume.damaged.len().saturating_sub(RUNS);
            let more = if more > 0 { format!(" and {more} more places") } else { String::new() };
            parts.push(format!("{name} has {bytes} damaged bytes (at {}{more})", runs.join(", ")));
        }
        format!(
            "{} of {} blocks ({} bytes) are lost and {} of {} parity blocks are left, {} too few: {}",
            self.lost_blocks,
            self.blocks,
            self.lost_blocks * self.block,
            self.parity_blocks - self.lost_parity,
            self.parity_blocks,
            self.beyond_repair,
            parts.join("; ")
        )
    }
}

fn range(run: &Extent) -> String {
    format!("{}-{}", run.offset, run.offset + run.len - 1)
}

/// What is known after a verify: what repair works from.
#[derive(Debug)]
pub struct Damage {
    /// For people.
    pub report: Report,
    /// Data blocks that are lost, in order.
    pub blocks: Vec<u64>,
    /// Parity blocks that are lost, in order.
    pub parity: Vec<u64>,
    /// Recovery shards of the tables that are lost, in order.
    pub shards: Vec<u64>,
    /// The pieces of all tables, as they lie in the files; none where a piece is lost for good.
    pub pieces: Vec<Option<Vec<u8>>>,
    /// Volumes that must be written again, by number.
    pub volumes: Vec<u32>,
}

/// What one pass over the files gives.
struct Pass {
    blocks: Vec<Option<Hash>>,
    parity: Vec<Option<Hash>>,
    pieces: Vec<Option<Vec<u8>>>,
    shards: Vec<bool>,
    /// Heads and frames that are wrong: the volume and the place.
    fixed: Vec<(u32, Extent)>,
}

/// Reads every volume once and says what is wrong. Needs memory for 32 bytes a block, and for the tables.
pub fn check(set: &VolumeSet, budget: Budget, ctx: &Ctx) -> Result<Damage, VolumeError> {
    let record = &set.record;
    let (pieces, parity, shards) = match &record.parity {
        Some(p) => (p.pieces.len(), p.layout.all_blocks() as usize, p.shards.len()),
        None => (0, 0, 0),
    };
    let present: u64 = set.files.iter().flatten().map(|volume| volume.len).sum();
    let believable = BLOCKS_BELIEVED.max(BLOCKS_EACH * (present >> record.core.layout.block_log));
    if record.core.layout.all_blocks().saturating_add(parity as u64) > believable {
        let what = "its record speaks of far more blocks than there are bytes".to_owned();
        return Err(VolumeError::Malformed { path: set.near(), what });
    }
    let mut pass = Pass {
        blocks: vec![None; record.core.layout.all_blocks() as usize],
        parity: vec![None; parity],
        pieces: vec![None; record.core.pieces.len() + pieces],
        shards: vec![false; shards],
        fixed: Vec::new(),
    };
    let total = set.files.iter().flatten().map(|volume| volume.len).sum();
    let task = ctx.begin("Verifying", set.near().display().to_string(), Some(total));
    for (volume, number) in set.files.iter().zip(1..) {
        let Some(volume) = volume else { continue };
        pass.read(record, volume, number, &task)?;
    }
    let damaged_pieces = pass.lost_pieces();
    pass.rebuild_pieces(record, &damaged_pieces);
    let lost_pieces = pass.lost_pieces();
    let good_shards = |s: u64| pass.shards.get(s as usize) == Some(&true);
    if !lost_pieces.is_empty() {
        pass.pieces = restore_pieces(set, pass.pieces, &lost_pieces, &good_shards, budget, ctx)?;
    }
    task.complete();
    Ok(pass.judge(set, &damaged_pieces))
}

impl Pass {
    fn read(
        &mut self,
        record: &Record,
        volume: &Volume,
        number: u32,
        task: &crate::base::progress::Task,
    ) -> Result<(), VolumeError> {
        let mut buffer = Ahead { volume, bytes: vec![0; 4 << 20], at: 0, len: 0 };
        for (unit, extent) in units(record, number) {
            task.advance(extent.len)?;
            let bytes = buffer.get(extent);
            match (unit, bytes) {
                (Unit::Block(d), bytes) => self.blocks[d as usize] = bytes.map(|b| *blake3::hash(b).as_bytes()),
                (Unit::Parity(q), bytes) => self.parity[q as usize] = bytes.map(|b| *blake3::hash(b).as_bytes()),
                (Unit::Piece(k), Some(bytes)) if Some(blake3::hash(bytes).as_bytes()) == piece_hash(record, k) => {
                    self.pieces[k as usize] = Some(bytes.to_vec());
                }
                (Unit::Piece(_), _) => {}
                (Unit::Shard(s), bytes) => {
                    let expected = record.parity.as_ref().and_then(|parity| parity.shards.get(s as usize));
                    self.shards[s as usize] = bytes.is_some_and(|b| Some(blake3::hash(b).as_bytes()) == expected);
                }
                (Unit::Head | Unit::Frame, bytes) => {
                    if bytes.is_none() || bytes != fixed(record, number, unit).as_deref() {
                        self.fixed.push((number, extent));
                    }
                }
            }
        }
        Ok(())
    }

    fn lost_pieces(&self) -> Vec<u64> {
        (0..self.pieces.len() as u64).filter(|k| self.pieces[*k as usize].is_none()).collect()
    }

    /// A damaged piece whose blocks are all right is what the blocks hash to.
    fn rebuild_pieces(&mut self, record: &Record, lost: &[u64]) {
        for k in lost {
            let hash = |unit: Unit| match unit {
                Unit::Block(d) => self.blocks[d as usize],
                Unit::Parity(q) => self.parity[q as usize],
                _ => None,
            };
            let hashes: Option<Vec<Hash>> = blocks_of_piece(record, *k).into_iter().map(hash).collect();
            self.pieces[*k as usize] = hashes.and_then(|hashes| piece_of_hashes(record, *k, &hashes));
        }
    }

    /// Compares what was read with the tables.
    fn judge(self, set: &VolumeSet, lost_pieces: &[u64]) -> Damage {
        let record = &set.record;
        let layout = &record.core.layout;
        let per = layout.per_piece();
        let entry = |piece: u64, hash: u64| -> Option<&[u8]> {
            let start = hash as usize * 32;
            self.pieces.get(piece as usize)?.as_deref()?.get(start..start + 32)
        };
        let mut unchecked = 0;
        let mut blocks = Vec::new();
        for v in 0..layout.volumes {
            for b in 0..layout.blocks(v) {
                let d = layout.first_block(v) + b;
                let expected = entry(layout.first_piece(v) + b / per, b % per);
                let got = self.blocks[d as usize].as_ref();
                unchecked += u64::from(expected.is_none() && got.is_some());
                if expected.is_none() || got.map(|hash| hash.as_slice()) != expected {
                    blocks.push(d);
                }
            }
        }
        let mut parity = Vec::new();
        if let Some(record) = &record.parity {
            for i in 0..record.layout.areas() {
                let first = layout.all_pieces() + record.layout.first_piece(i);
                for (q, n) in record.layout.blocks(i).zip(0..) {
                    let got = self.parity[q as usize].as_ref().map(|hash| hash.as_slice());
                    if got.is_none() || got != entry(first + n / per, n % per) {
                        parity.push(q);
                    }
                }
            }
        }
        let shards: Vec<u64> = (0..self.shards.len() as u64).filter(|s| !self.shards[*s as usize]).collect();
        let volumes = set.files.iter().zip(1..).map(|(file, number)| {
            let bad = |unit: Unit, extent: Extent| match unit {
                Unit::Block(d) => blocks.binary_search(&d).is_ok(),
                Unit::Parity(q) => parity.binary_search(&q).is_ok(),
                Unit::Piece(k) => lost_pieces.binary_search(&k).is_ok(),
                Unit::Shard(s) => shards.binary_search(&s).is_ok(),
                Unit::Head | Unit::Frame => self.fixed.contains(&(number, extent)),
            };
            report_volume(set, file.as_ref(), number, bad)
        });
        let volumes: Vec<VolumeReport> = volumes.collect();
        let report = Report {
            block: layout.block(),
            blocks: layout.all_blocks(),
            lost_blocks: blocks.len() as u64,
            unchecked_blocks: unchecked,
            parity_blocks: self.parity.len() as u64,
            lost_parity: parity.len() as u64,
            beyond_repair: beyond_repair(record, &blocks, &parity),
            volumes,
        };
        let rewrite = report.volumes.iter().filter(|volume| volume.state != State::Intact);
        let volumes = rewrite.map(|volume| volume.number).collect();
        Damage { report, blocks, parity, shards, pieces: self.pieces, volumes }
    }
}

fn report_volume(
    set: &VolumeSet,
    file: Option<&Volume>,
    number: u32,
    bad: impl Fn(Unit, Extent) -> bool,
) -> VolumeReport {
    let record = &set.record;
    let expected = record.file_len(number);
    let parity = number > record.core.layout.volumes;
    let path = set.path_of(number);
    let Some(file) = file else {
        return VolumeReport { number, parity, path, state: State::Missing, expected, len: 0, damaged: Vec::new() };
    };
    let mut damaged: Vec<Extent> = Vec::new();
    for (unit, extent) in units(record, number) {
        if bad(unit, extent) {
            match damaged.last_mut().filter(|last| last.offset + last.len == extent.offset) {
                Some(last) => last.len += extent.len,
                None => damaged.push(extent),
            }
        }
    }
    let intact = damaged.is_empty() && file.len == expected;
    let state = if intact { State::Intact } else { State::Damaged };
    VolumeReport { number, parity, path, state, expected, len: file.len, damaged }
}

/// Data blocks that their stripes cannot bring back.
fn beyond_repair(record: &Record, blocks: &[u64], parity: &[u64]) -> u64 {
    let Some(layout) = record.parity.as_ref().map(|parity| parity.layout) else { return blocks.len() as u64 };
    let mut lost = vec![(0, 0); layout.stripes as usize];
    blocks.iter().for_each(|d| lost[(d % layout.stripes) as usize].0 += 1);
    parity.iter().for_each(|q| lost[(q % layout.stripes) as usize].1 += 1);
    let short = |(data, parity): &(u64, u64)| {
        if *data == 0 { 0 } else { (data + parity).saturating_sub(layout.per_stripe).min(*data) }
    };
    lost.iter().map(short).sum()
}

/// Brings lost pieces back through the code of the tables, when enough of it is left.
fn restore_pieces(
    set: &VolumeSet,
    mut pieces: Vec<Option<Vec<u8>>>,
    lost: &[u64],
    good_shard: &dyn Fn(u64) -> bool,
    budget: Budget,
    ctx: &Ctx,
) -> Result<Vec<Option<Vec<u8>>>, VolumeError> {
    let Some(parity) = &set.record.parity else { return Ok(pieces) };
    let shape = table_shape(&parity.layout);
    let bad_shards: Vec<u64> = (0..shape.recovery).filter(|s| !good_shard(*s)).collect();
    if shape.recovery - (bad_shards.len() as u64) < lost.len() as u64 {
        return Ok(pieces);
    }
    let places = super::parity::Places { layout: &parity.layout, frame: set.record.frame_len() as u64 };
    let shards = places.table(shape.recovery, super::parity::Places::shard);
    let size = shape.symbol as usize;
    let restored: Vec<std::sync::Mutex<Vec<u8>>> = lost.iter().map(|_| vec![0; size].into()).collect();
    {
        let pieces = &pieces;
        let read = |k: u64, at: u64, bytes: &mut [u8]| {
            let at = at as usize;
            let piece = pieces[k as usize].as_deref().and_then(|piece| piece.get(at..at + bytes.len()));
            bytes.copy_from_slice(piece.ok_or_else(|| VolumeError::ParityDisagrees(format!("table {k}")))?);
            Ok(())
        };
        let read_shard = |s: u64, at: u64, bytes: &mut [u8]| {
            let (file, offset) = shards[s as usize];
            set.read_at(file, bytes, offset + at)
        };
        let write = |k: u64, at: u64, bytes: &[u8]| {
            if let Ok(i) = lost.binary_search(&k) {
                let at = at as usize;
                let mut piece = restored[i].lock().unwrap_or_else(|e| e.into_inner());
                piece[at..at + bytes.len()].copy_from_slice(bytes);
            }
            Ok(())
        };
        let erased = Erased { originals: lost, recovery: &bad_shards };
        code::decode(shape, erased, &read, &read_shard, &write, budget, ctx)?;
    }
    for (k, piece) in lost.iter().zip(restored) {
        let piece = piece.into_inner().unwrap_or_else(|e| e.into_inner());
        if Some(blake3::hash(&piece).as_bytes()) != piece_hash(&set.record, *k) {
            return Err(VolumeError::ParityDisagrees(format!("table {k}")));
        }
        pieces[*k as usize] = Some(piece);
    }
    debug_assert_eq!(block_shape(&parity.layout).symbol, shape.symbol);
    Ok(pieces)
}

/// Reads a file forward in large steps, and around places that cannot be read.
struct Ahead<'a> {
    volume: &'a Volume,
    bytes: Vec<u8>,
    at: u64,
    len: usize,
}

impl Ahead<'_> {
    /// The bytes of `extent`, which lies behind all that were asked for; nothing when they cannot be read.
    fn get(&mut self, extent: Extent) -> Option<&[u8]> {
        let len = extent.len as usize;
        if extent.offset + extent.len > self.at + self.len as u64 {
            if self.bytes.len() < len {
                self.bytes.resize(len, 0);
            }
            let there = self.volume.len.checked_sub(extent.offset).filter(|there| *there >= extent.len)?;
            let want = there.min(self.bytes.len() as u64) as usize;
            self.at = extent.offset;
            self.len = 0;
            if self.volume.file.read_exact_at(&mut self.bytes[..want], extent.offset).is_ok() {
                self.len = want;
            } else if self.volume.file.read_exact_at(&mut self.bytes[..len], extent.offset).is_ok() {
                // Something further on cannot be read: go on by single units until past it.
                self.len = len;
            } else {
                return None;
            }
        }
        let start = (extent.offset - self.at) as usize;
        self.bytes.get(start..start + len)
    }
}
