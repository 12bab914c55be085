//! Sparse files: GNU's old format (type S) and the three PAX formats (GNU tar manual, "Storing Sparse Files").

use super::entry::Entry;
use super::header::number;
use super::pax::unsigned;
use super::{BLOCK, Handler, Input, TarError};
use crate::base::{BoxFault, caps};

/// The most pieces a sparse file may have; GNU tar writes one for each data region.
const PIECES: usize = 1 << 20;

/// Where a sparse file's data lies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SparseMap {
    /// (offset in the file, length), in bytes, ascending and apart.
    pub pieces: Vec<(u64, u64)>,
    /// The size of the file, in bytes.
    pub size: u64,
}

impl SparseMap {
    /// Whether the pieces are in order, inside the file, and as long as the stored data.
    pub(super) fn check(&self, stored: u64) -> Result<(), &'static str> {
        let (mut end, mut sum) = (0_u64, 0_u64);
        for (offset, length) in &self.pieces {
            let next = offset.checked_add(*length).ok_or("a sparse map overflows")?;
            if *offset < end || next > self.size {
                return Err("a sparse map is out of order or out of its file");
            }
            (end, sum) = (next, sum + length);
        }
        if sum != stored || i64::try_from(self.size).is_err() {
            return Err("a sparse map does not fit its data");
        }
        Ok(())
    }

    fn push(&mut self, offset: u64, length: u64) -> Result<(), &'static str> {
        if self.pieces.len() >= PIECES {
            return Err("a sparse map has too many pieces");
        }
        self.pieces.push((offset, length));
        Ok(())
    }
}

/// Reads the map of a type S header and the blocks that continue it.
pub(super) fn read_gnu_map(
    block: &[u8; BLOCK],
    offset: u64,
    input: &mut Input<'_>,
    handler: &mut dyn Handler,
) -> Result<SparseMap, BoxFault> {
    let damaged = |reason| TarError::Damaged { offset, reason };
    let mut map = SparseMap::default();
    let size = number(&block[483..495]).and_then(|size| u64::try_from(size).ok());
    map.size = size.ok_or_else(|| damaged("a sparse file's size is not a number"))?;
    take_pieces(&mut map, &block[386..482]).map_err(damaged)?;
    let mut more = block[482] != 0;
    while more {
        let Some(next) = input.block()? else { return Err(TarError::CutShort(input.offset).into()) };
        handler.raw(&next)?;
        take_pieces(&mut map, &next[..504]).map_err(damaged)?;
        more = next[504] != 0;
    }
    Ok(map)
}

/// Pairs of 12-byte numbers; an empty first byte ends them.
fn take_pieces(map: &mut SparseMap, field: &[u8]) -> Result<(), &'static str> {
    for piece in field.chunks_exact(24) {
        if piece[0] == 0 {
            break;
        }
        let read = |field| number(field).and_then(|n| u64::try_from(n).ok()).ok_or("a sparse map is not of numbers");
        map.push(read(&piece[..12])?, read(&piece[12..])?)?;
    }
    Ok(())
}

/// What the records `GNU.sparse.*` say.
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    major: Option<u64>,
    minor: Option<u64>,
    name: Option<Vec<u8>>,
    size: Option<u64>,
    numbers: Vec<u64>,
    has_map: bool,
}

/// What became of them.
pub(super) struct PaxFound {
    pub map: Option<SparseMap>,
    pub in_data: bool,
    pub name: Option<Vec<u8>>,
}

impl PaxSparse {
    pub fn record(&mut self, key: &str, value: &[u8]) -> Result<(), &'static str> {
        let read = || unsigned(value).ok_or("a sparse file's record is not a number");
        match key {
            "GNU.sparse.major" => self.major = Some(read()?),
            "GNU.sparse.minor" => self.minor = Some(read()?),
            "GNU.sparse.name" if !value.contains(&0) && !value.is_empty() => self.name = Some(value.to_vec()),
            "GNU.sparse.realsize" | "GNU.sparse.size" => self.size = Some(read()?),
            "GNU.sparse.offset" | "GNU.sparse.numbytes" => {
                self.has_map = true;
                self.push(read()?)?;
            }
            "GNU.sparse.map" => {
                self.has_map = true;
                self.numbers.clear();
                for number in value.split(|b| *b == b',').filter(|text| !text.is_empty()) {
                    self.push(unsigned(number).ok_or("a sparse map is not of numbers")?)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn push(&mut self, number: u64) -> Result<(), &'static str> {
        if self.numbers.len() >= 2 * PIECES {
            return Err("a sparse map has too many pieces");
        }
        self.numbers.push(number);
        Ok(())
    }

    pub fn finish(self, stored: u64) -> Result<PaxFound, &'static str> {
        let size = self.size.unwrap_or(stored);
        if (self.major, self.minor) == (Some(1), Some(0)) {
            let map = Some(SparseMap { pieces: Vec::new(), size });
            return Ok(PaxFound { map, in_data: true, name: self.name });
        }
        let old = matches!((self.major, self.minor), (None, None) | (Some(0), Some(0 | 1)));
        if !self.has_map || !old {
            return Ok(PaxFound { map: None, in_data: false, name: None });
        }
        if !self.numbers.len().is_multiple_of(2) {
            return Err("a sparse map is not of pairs");
        }
        let pieces = self.numbers.as_chunks::<2>().0.iter().map(|[offset, length]| (*offset, *length)).collect();
        Ok(PaxFound { map: Some(SparseMap { pieces, size }), in_data: false, name: self.name })
    }
}

/// Reads the PAX 1.0 map at the beginning of an entry's data: decimal numbers, a line each, padded to a block.
pub(super) fn read_map_in_data(
    mut entry: Entry,
    input: &mut Input<'_>,
    handler: &mut dyn Handler,
) -> Result<Entry, BoxFault> {
    let offset = input.offset;
    let damaged = |reason| TarError::Damaged { offset, reason };
    let mut map = entry.sparse.take().unwrap_or_default();
    let mut numbers = Numbers { text: Vec::new(), taken: 0 };
    let mut next = |input: &mut Input<'_>, left: &mut u64| -> Result<u64, BoxFault> {
        loop {
            if let Some(number) = numbers.next().map_err(damaged)? {
                return Ok(number);
            }
            if *left < BLOCK as u64 || numbers.text.len() as u64 > 2 * caps::TAR_METADATA_BYTES {
                return Err(damaged("a sparse map is cut short").into());
            }
            *left -= BLOCK as u64;
            input.pass(BLOCK as u64, &mut |bytes| {
                numbers.text.extend_from_slice(bytes);
                handler.raw(bytes)
            })?;
        }
    };
    let mut left = entry.stored;
    let count = next(input, &mut left)?;
    for _ in 0..count {
        let (start, length) = (next(input, &mut left)?, next(input, &mut left)?);
        map.push(start, length).map_err(damaged)?;
    }
    map.check(left).map_err(damaged)?;
    entry.stored = left;
    entry.sparse = Some(map);
    Ok(entry)
}

/// Lines of decimal numbers, as far as they are there.
struct Numbers {
    text: Vec<u8>,
    taken: usize,
}

impl Numbers {
    fn next(&mut self) -> Result<Option<u64>, &'static str> {
        let rest = &self.text[self.taken..];
        let Some(end) = rest.iter().position(|b| *b == b'\n') else { return Ok(None) };
        self.taken += end + 1;
        unsigned(&rest[..end]).map(Some).ok_or("a sparse map is not of numbers")
    }
}
