//! Reads the stream of a set anywhere. No byte is given out before its block has the hash its table promises.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, OnceLock};

use super::error::{Damaged, VolumeError};
use super::layout::Extent;
use super::record::Hash;
use super::repair::Restored;
use super::set::VolumeSet;
use crate::base::read_at::ReadAt;

/// Small reads come from the blocks that were checked last.
const CACHED_BLOCKS: usize = 4;

/// The stream of a complete set.
#[derive(Debug)]
pub struct SetReader {
    set: VolumeSet,
    pieces: Vec<OnceLock<Vec<Hash>>>,
    cache: Mutex<BTreeMap<u64, Vec<u8>>>,
    restored: Option<Restored>,
}

impl SetReader {
    /// Reads a set that must be complete; damage is an error of the read that meets it.
    pub fn new(set: VolumeSet) -> Result<Self, VolumeError> {
        set.complete()?;
        Ok(Self::with(set, None))
    }

    /// Reads a set whose damaged and missing blocks are in `restored`.
    pub fn repaired(set: VolumeSet, restored: Restored) -> Self {
        Self::with(set, Some(restored))
    }

    fn with(set: VolumeSet, restored: Option<Restored>) -> Self {
        let pieces = (0..set.record.core.pieces.len()).map(|_| OnceLock::new()).collect();
        Self { set, pieces, cache: Mutex::default(), restored }
    }

    /// The set that is read.
    pub fn set(&self) -> &VolumeSet {
        &self.set
    }

    fn read_file(&self, v: u32, extent: Extent, buf: &mut [u8]) -> io::Result<()> {
        let Some(volume) = &self.set.files[v as usize] else { return Err(self.damaged(v, extent).into()) };
        volume.file.read_exact_at(buf, extent.offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged(v, extent).into(),
            _ => error,
        })
    }

    fn damaged(&self, v: u32, extent: Extent) -> Damaged {
        Damaged { path: self.set.path_of(v + 1), offset: extent.offset, len: extent.len }
    }

    /// The hashes of piece `k`, checked.
    fn piece(&self, k: u64) -> io::Result<&[Hash]> {
        let slot = &self.pieces[k as usize];
        if let Some(hashes) = slot.get() {
            return Ok(hashes);
        }
        let layout = &self.set.record.core.layout;
        let (v, p) = layout.volume_of_piece(k);
        let extent = layout.piece_extent(v, p);
        let bytes = match self.restored.as_ref().and_then(|restored| restored.piece(k)) {
            Some(piece) => piece.to_vec(),
            None => {
                let mut bytes = vec![0; extent.len as usize];
                self.read_file(v, extent, &mut bytes)?;
                bytes
            }
        };
        if *blake3::hash(&bytes).as_bytes() != self.set.record.core.pieces[k as usize] {
            return Err(self.damaged(v, extent).into());
        }
        Ok(slot.get_or_init(|| bytes.as_chunks::<32>().0.to_vec()))
    }

    /// Reads all of data block `b` of volume `v` into `buf`, which is as long as the block.
    fn block(&self, v: u32, b: u64, buf: &mut [u8]) -> io::Result<()> {
        let layout = &self.set.record.core.layout;
        let extent = layout.block_extent(v, b);
        let per = layout.per_piece();
        let expected = self.piece(layout.first_piece(v) + b / per)?[(b % per) as usize];
        let restored = self.restored.as_ref().map(|restored| restored.block(layout.first_block(v) + b, buf));
        if !restored.transpose()?.unwrap_or(false) {
            self.read_file(v, extent, buf)?;
        }
        if *blake3::hash(buf).as_bytes() != expected {
            return Err(self.damaged(v, extent).into());
        }
        Ok(())
    }

    /// How many bytes the whole blocks from `b` on have, as far as they fit into `room`.
    fn run(&self, v: u32, b: u64, room: usize) -> usize {
        let layout = &self.set.record.core.layout;
        let mut run = 0;
        for b in b..layout.blocks(v) {
            let len = layout.block_extent(v, b).len as usize;
            if run + len > room {
                break;
            }
            run += len;
        }
        run
    }

    /// Reads whole blocks from `b` on, in one go where they lie as they are: each read may be a journey.
    fn blocks(&self, v: u32, b: u64, buf: &mut [u8]) -> io::Result<()> {
        let layout = &self.set.record.core.layout;
        let run = Extent { len: buf.len() as u64, ..layout.block_extent(v, b) };
        let read = self.restored.is_none() && self.read_file(v, run, buf).is_ok();
        for (piece, b) in buf.chunks_mut(layout.block() as usize).zip(b..) {
            let first = layout.first_piece(v) + b / layout.per_piece();
            // A block that is not what it should be is read by itself, which says where it lies.
            if !read || *blake3::hash(piece).as_bytes() != self.piece(first)?[(b % layout.per_piece()) as usize] {
                self.block(v, b, piece)?;
            }
        }
        Ok(())
    }

    /// Copies from a block that may be in the cache.
    fn part_of_block(&self, v: u32, b: u64, from: usize, buf: &mut [u8]) -> io::Result<()> {
        let layout = &self.set.record.core.layout;
        let id = layout.first_block(v) + b;
        let lock = || self.cache.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(block) = lock().get(&id) {
            buf.copy_from_slice(&block[from..from + buf.len()]);
            return Ok(());
        }
        let mut block = vec![0; layout.block_extent(v, b).len as usize];
        self.block(v, b, &mut block)?;
        buf.copy_from_slice(&block[from..from + buf.len()]);
        let mut cache = lock();
        while cache.len() >= CACHED_BLOCKS {
            cache.pop_first();
        }
        cache.insert(id, block);
        Ok(())
    }
}

impl ReadAt for SetReader {
    fn size(&self) -> u64 {
        self.set.record.core.layout.stream
    }

    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        let layout = self.set.record.core.layout;
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= layout.stream);
        if end.is_none() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while !buf.is_empty() {
            let (v, at) = layout.locate(offset);
            let b = at >> layout.block_log;
            let extent = layout.block_extent(v, b);
            // In an aligned set the last block of a stream is filled up; the end check above keeps us out of that.
            let from = (at - extent.offset) as usize;
            let mut n = (extent.len as usize - from).min(buf.len());
            let whole = n as u64 == extent.len;
            if whole {
                n = self.run(v, b, buf.len());
            }
            let (now, later) = buf.split_at_mut(n);
            if whole {
                self.blocks(v, b, now)?;
            } else {
                self.part_of_block(v, b, from, now)?;
            }
            offset += n as u64;
            buf = later;
        }
        Ok(())
    }
}
