//! Where the pieces of a changed content lie in the version of it that a base has.

use std::collections::HashMap;

use super::base::Version;
use super::plan::{Chunk, Grain};

/// A range of a base content, which an object is compressed against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Against {
    pub version: Version,
    /// In bytes.
    pub from: u64,
    /// In bytes.
    pub to: u64,
}

/// For a content that is smaller than a chunk of its version may be.
pub(crate) const FINE: Grain = Grain { least: 1 << 10, average: 4 << 10, most: 16 << 10 };

/// How a content's pieces moved against its base version.
#[derive(Debug)]
pub(crate) struct Alignment {
    version: Version,
    /// How many bytes around the place where a piece should be belong to its range.
    slack: u64,
    /// In their order: where a piece begins, its size, how far it moved: as the one before it, as the one behind.
    pieces: Vec<(u64, u32, [i64; 2])>,
}

impl Alignment {
    /// Compares a content's chunks with those of its base version, cut as finely, by `grain`: what lies between two chunks
    /// that are equal has moved as far as either.
    pub fn new(chunks: &[Chunk], grain: &Grain, base: &[Chunk], version: Version) -> Self {
        let mut places = HashMap::new();
        let mut at = 0;
        for chunk in base {
            places.entry(chunk.id).or_insert(at);
            at += i64::from(chunk.size);
        }
        let mut offset = 0;
        let moved: Vec<(u64, u32, Option<i64>)> = chunks
            .iter()
            .map(|chunk| {
                let begin = offset;
                offset += i64::from(chunk.size);
                (begin as u64, chunk.size, places.get(&chunk.id).map(|place| place - begin))
            })
            .collect();
        // What is not found is between two pieces that are, and belongs to either.
        let mut pieces: Vec<(u64, u32, [i64; 2])> =
            moved.iter().map(|(begin, size, moved)| (*begin, *size, [moved.unwrap_or(0); 2])).collect();
        let known = |at: usize| moved[at].2;
        let first = (0..moved.len()).find_map(known).unwrap_or(0);
        let last = (0..moved.len()).rev().find_map(known).unwrap_or(0);
        let mut by = first;
        for (at, piece) in pieces.iter_mut().enumerate() {
            by = known(at).unwrap_or(by);
            piece.2[0] = by;
        }
        by = last;
        for (at, piece) in pieces.iter_mut().enumerate().rev() {
            by = known(at).unwrap_or(by);
            piece.2[1] = by;
        }
        Self { version, slack: grain.average as u64, pieces }
    }

    /// The ranges of the base that `size` bytes from `offset` on are compressed against; they do not overlap.
    pub fn ranges(&self, offset: u64, size: u32) -> Vec<Against> {
        let first = self.pieces.partition_point(|(begin, ..)| *begin < offset);
        let pieces = self.pieces[first..].iter().take_while(|(begin, ..)| *begin < offset + u64::from(size));
        let range = |(begin, size, moved): (u64, u32, i64)| {
            let place = begin.saturating_add_signed(moved);
            let from = place.saturating_sub(self.slack);
            let to = place.saturating_add(u64::from(size) + self.slack).min(self.version.size);
            (from < to).then_some(Against { version: self.version, from, to })
        };
        let places = pieces.flat_map(|(begin, size, moved)| moved.map(|moved| (*begin, *size, moved)));
        let mut ranges: Vec<Against> = places.filter_map(range).collect();
        ranges.sort_by_key(|range| range.from);
        ranges.dedup_by(|next, kept| {
            let joins = next.from <= kept.to;
            if joins {
                kept.to = kept.to.max(next.to);
            }
            joins
        });
        ranges
    }
}
