//! A tar stream read without losing a byte: what is understood of an entry goes to the handler as an [`Entry`], and
//! every byte that is not a file's content goes there as it is, so that both together are the stream again.
//!
//! Reads what docker's and Go's archive/tar read (V7, ustar, PAX, GNU, GNU and PAX sparse files), and takes for the
//! end what Go takes for it: two zero blocks, or the end of the stream. What follows the end is kept as well.

mod entry;
mod header;
mod pax;
mod sparse;
pub mod write;

use std::io::{self, Read};

pub use entry::{Entry, Kind, Time};
pub use sparse::SparseMap;

use crate::base::digest::Hasher;
use crate::base::{BoxFault, Class, Digest, Fault, caps};

/// A tar block, in bytes.
pub const BLOCK: usize = 512;

/// What is wrong with a stream.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// Reading failed.
    #[error("cannot read the layer at byte {offset}: {source}")]
    Read {
        /// How far it came.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// The stream ends inside an entry.
    #[error("the layer is cut short at byte {0}")]
    CutShort(u64),
    /// Not tar, or damaged.
    #[error("the layer is damaged at byte {offset}: {reason}")]
    Damaged {
        /// The block's place in the stream.
        offset: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An entry is over a limit.
    #[error("the layer has at byte {offset} {what} over the limit of {limit} bytes")]
    OverLimit {
        /// The block's place in the stream.
        offset: u64,
        /// What is too large.
        what: &'static str,
        /// In bytes.
        limit: u64,
    },
    /// Too many entries.
    #[error("the layer has more than {0} entries")]
    TooMany(u64),
}

impl Fault for TarError {
    fn class(&self) -> Class {
        match self {
            Self::Read { source, .. } => crate::base::error::class_of_io(source),
            _ => Class::Malformed,
        }
    }
}

/// Takes a tar stream apart, in its order: for each entry its raw bytes, the entry, its data, its end.
pub trait Handler {
    /// Raw bytes that are not an entry's data: padding, headers, trailer.
    fn raw(&mut self, bytes: &[u8]) -> Result<(), BoxFault>;

    /// An entry begins; its data, [`Entry::stored`] bytes, begins in the stream at `offset`.
    fn entry(&mut self, entry: Entry, offset: u64) -> Result<(), BoxFault>;

    /// The next of the entry's data.
    fn data(&mut self, bytes: &[u8]) -> Result<(), BoxFault>;

    /// The entry is complete.
    fn end(&mut self) -> Result<(), BoxFault>;
}

/// What a whole stream was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole {
    /// The SHA-256 of all of it.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
}

/// Reads a stream to its end and hands all of it to `handler`.
pub fn read(stream: &mut dyn Read, handler: &mut dyn Handler) -> Result<Whole, BoxFault> {
    let mut input = Input::new(stream, Some(Hasher::new()));
    hand_on(&mut input, handler)?;
    let size = input.offset;
    Ok(Whole { digest: input.hasher.unwrap_or_default().finish(), size })
}

/// The same for a stream whose digest nobody asks for.
pub fn scan(stream: &mut dyn Read, handler: &mut dyn Handler) -> Result<(), BoxFault> {
    hand_on(&mut Input::new(stream, None), handler)
}

fn hand_on(input: &mut Input<'_>, handler: &mut dyn Handler) -> Result<(), BoxFault> {
    let mut entries = 0_u64;
    while let Some((entry, sparse_in_data)) = next_entry(input, handler)? {
        entries += 1;
        if entries > caps::LAYER_ENTRIES {
            return Err(TarError::TooMany(caps::LAYER_ENTRIES).into());
        }
        let stored = entry.stored;
        let entry = if sparse_in_data { sparse::read_map_in_data(entry, input, handler)? } else { entry };
        let left = entry.stored;
        handler.entry(entry, input.offset)?;
        input.pass(left, &mut |bytes| handler.data(bytes))?;
        handler.end()?;
        // Padding belongs to the next segment; the last file's may be missing at the end of a stream.
        let padding = stored.next_multiple_of(BLOCK as u64) - stored;
        input.pass_if_there(padding, &mut |bytes| handler.raw(bytes))?;
    }
    input.pass_if_there(u64::MAX, &mut |bytes| handler.raw(bytes))?;
    Ok(())
}

/// Reads headers up to the one that an entry's data follows. `None` at the end of the archive. The flag says that the
/// data begins with a PAX 1.0 sparse map.
fn next_entry(input: &mut Input<'_>, handler: &mut dyn Handler) -> Result<Option<(Entry, bool)>, BoxFault> {
    let mut extended = pax::Extended::default();
    let mut metadata = 0_u64;
    loop {
        let offset = input.offset;
        let Some(block) = input.block()? else {
            return if metadata == 0 { Ok(None) } else { Err(TarError::CutShort(offset).into()) };
        };
        handler.raw(&block)?;
        if block.iter().all(|b| *b == 0) {
            let Some(second) = input.block()? else { return Ok(None) };
            handler.raw(&second)?;
            if second.iter().all(|b| *b == 0) {
                return Ok(None);
            }
            return Err(TarError::Damaged { offset, reason: "a single zero block" }.into());
        }
        let header = header::Header::parse(&block).map_err(|reason| TarError::Damaged { offset, reason })?;
        if !header.is_extension() {
            let mut sparse = None;
            if header.type_flag == b'S' {
                sparse = Some(sparse::read_gnu_map(&block, offset, input, handler)?);
            }
            let (entry, in_data) =
                entry::Entry::new(&header, extended, sparse).map_err(|reason| TarError::Damaged { offset, reason })?;
            return Ok(Some((entry, in_data)));
        }
        metadata = metadata.saturating_add(header.size);
        if metadata > caps::TAR_METADATA_BYTES {
            let limit = caps::TAR_METADATA_BYTES;
            return Err(TarError::OverLimit { offset, what: "names and attributes", limit }.into());
        }
        let mut bytes = Vec::new();
        input.pass(header.size, &mut |piece| {
            bytes.extend_from_slice(piece);
            handler.raw(piece)
        })?;
        let padding = header.size.next_multiple_of(BLOCK as u64) - header.size;
        input.pass(padding, &mut |piece| handler.raw(piece))?;
        // At least one: an extension without its entry is an error.
        metadata += 1;
        extended.take(header.type_flag, bytes).map_err(|reason| TarError::Damaged { offset, reason })?;
    }
}

/// The stream, hashed as it is read when there is a hasher.
pub(crate) struct Input<'a> {
    stream: &'a mut dyn Read,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes handed on so far.
    pub(crate) offset: u64,
    hasher: Option<Hasher>,
    over: bool,
}

type Sink<'s> = dyn FnMut(&[u8]) -> Result<(), BoxFault> + 's;

impl<'a> Input<'a> {
    const BUFFER: usize = 256 << 10;

    fn new(stream: &'a mut dyn Read, hasher: Option<Hasher>) -> Self {
        let buffer = vec![0; Self::BUFFER];
        Self { stream, buffer, start: 0, end: 0, offset: 0, hasher, over: false }
    }

    /// Makes sure that something is in the buffer, unless the stream is over.
    fn fill(&mut self) -> Result<(), TarError> {
        if self.start < self.end || self.over {
            return Ok(());
        }
        (self.start, self.end) = (0, 0);
        // Full reads: hashing and handing on are cheapest in large pieces.
        while self.end < self.buffer.len() {
            match self.stream.read(&mut self.buffer[self.end..]) {
                Ok(0) => {
                    self.over = true;
                    break;
                }
                Ok(n) => self.end += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(TarError::Read { offset: self.offset + self.end as u64, source }),
            }
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&self.buffer[..self.end]);
        }
        Ok(())
    }

    /// The next block; `None` at the end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            self.fill()?;
            if self.start == self.end {
                return if have == 0 { Ok(None) } else { Err(TarError::CutShort(self.offset)) };
            }
            let n = (BLOCK - have).min(self.end - self.start);
            block[have..have + n].copy_from_slice(&self.buffer[self.start..self.start + n]);
            self.start += n;
            self.offset += n as u64;
            have += n;
        }
        Ok(Some(block))
    }

    /// Hands on exactly `length` bytes.
    pub(crate) fn pass(&mut self, length: u64, sink: &mut Sink<'_>) -> Result<(), BoxFault> {
        match self.pass_if_there(length, sink)? {
            0 => Ok(()),
            _ => Err(TarError::CutShort(self.offset).into()),
        }
    }

    /// Hands on up to `length` bytes; says how many were missing.
    fn pass_if_there(&mut self, mut length: u64, sink: &mut Sink<'_>) -> Result<u64, BoxFault> {
        while length > 0 {
            self.fill()?;
            if self.start == self.end {
                break;
            }
            let n = usize::try_from(length).unwrap_or(usize::MAX).min(self.end - self.start);
            sink(&self.buffer[self.start..self.start + n])?;
            self.start += n;
            self.offset += n as u64;
            length -= n as u64;
        }
        Ok(length)
    }
}
