//! The frame of the stream: header, trailer, and the way to the index.

use std::io::Write;

use super::error::{BundleError, Doing};
use super::frame;
use super::index::{INDEX_BYTES, Index};
use super::level::Level;
use crate::base::ReadAt;
use crate::base::codec::Take;

/// The newest format this program reads.
pub const FORMAT: u16 = 5;
/// The first format whose readers know several blobs of one layer.
pub(crate) const FURTHER_BLOBS: u16 = 5;
/// The first format whose readers know a replay, by its method and parameter.
pub(crate) fn format_of([method, _]: [u8; 2]) -> u16 {
    match method {
        1 => 2,
        2 => 3,
        _ => 4,
    }
}
pub(crate) const HEADER: usize = 16;
const TRAILER: usize = 64;
const MAGIC: &[u8; 8] = b"FERRYOB\n";
const END: &[u8; 8] = b"FERRYEN\n";

/// Writes the stream forward.
pub(crate) struct StreamWriter<W> {
    out: W,
    at: u64,
}

impl<W: Write> StreamWriter<W> {
    /// Writes the header; `format` is the oldest whose readers can read what follows.
    pub fn begin(out: W, format: u16) -> Result<Self, BundleError> {
        let mut stream = Self { out, at: 0 };
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&format.to_le_bytes());
        header.extend_from_slice(&format.to_le_bytes());
        header.extend_from_slice(&[0; 4]);
        stream.write(&header)?;
        Ok(stream)
    }

    /// How many bytes were written.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Writes a frame and gives its checksum.
    pub fn put(&mut self, stored: &[u8]) -> Result<[u8; 32], BundleError> {
        self.write(stored)?;
        Ok(*blake3::hash(stored).as_bytes())
    }

    /// Writes the index and the trailer; gives the length of the stream and the bundle's identity.
    pub fn finish(mut self, index: &Index, level: Level) -> Result<(u64, [u8; 32]), BundleError> {
        let raw = index.encode();
        if raw.len() as u64 > INDEX_BYTES {
            return Err(BundleError::malformed("index", "it would be over 1 GiB"));
        }
        let stored = frame::compress(level.for_metadata(), &raw, &[]).doing(|| "compress the index".into())?;
        let offset = self.at;
        let check = self.put(&stored)?;
        let mut trailer = Vec::with_capacity(TRAILER);
        for number in [offset, stored.len() as u64, raw.len() as u64] {
            trailer.extend_from_slice(&number.to_le_bytes());
        }
        trailer.extend_from_slice(&check);
        trailer.extend_from_slice(END);
        self.write(&trailer)?;
        self.out.flush().doing(|| "write the bundle".into())?;
        Ok((self.at, check))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), BundleError> {
        self.out.write_all(bytes).doing(|| "write the bundle".into())?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}

/// The index of a stream, checked, and the bundle's identity.
pub(crate) fn read_index(stream: &dyn ReadAt) -> Result<(Index, [u8; 32]), BundleError> {
    let mut header = [0; HEADER];
    let mut trailer = [0; TRAILER];
    let Some(trailer_at) = stream.size().checked_sub(TRAILER as u64).filter(|at| *at >= HEADER as u64) else {
        return Err(BundleError::NotABundle { what: "it is too short" });
    };
    stream.read_exact_at(&mut header, 0).doing(|| "read the header".into())?;
    if header[..8] != *MAGIC {
        return Err(BundleError::NotABundle { what: "it does not begin like one" });
    }
    let oldest = u16::from_le_bytes([header[10], header[11]]);
    if oldest > FORMAT {
        return Err(BundleError::Newer { what: format!("format {oldest}") });
    }
    if u16::from_le_bytes([header[8], header[9]]) < oldest || oldest == 0 || header[12..] != [0; 4] {
        return Err(BundleError::malformed("header", "its fields contradict each other"));
    }
    stream.read_exact_at(&mut trailer, trailer_at).doing(|| "read the trailer".into())?;
    let broken = |what| BundleError::malformed("trailer", what);
    let mut take = Take(&trailer);
    let mut number = || take.array().map(u64::from_le_bytes).map_err(broken);
    let (offset, stored, length) = (number()?, number()?, number()?);
    let check: [u8; 32] = take.array().map_err(broken)?;
    if take.0 != END {
        return Err(broken("it is not there: the bundle is cut short"));
    }
    if offset < HEADER as u64 || offset.checked_add(stored) != Some(trailer_at) {
        return Err(broken("the index is not where it says"));
    }
    if length > INDEX_BYTES || stored > INDEX_BYTES {
        return Err(broken("the index is over 1 GiB"));
    }
    let mut bytes = vec![0; stored as usize];
    stream.read_exact_at(&mut bytes, offset).doing(|| "read the index".into())?;
    if *blake3::hash(&bytes).as_bytes() != check {
        return Err(BundleError::Damaged { place: "index".into() });
    }
    let raw = frame::decompress(&bytes, length as usize, &[]).map_err(|what| BundleError::malformed("index", what))?;
    let index = Index::parse(&raw)?;
    let misplaced = |what: &str| Err(BundleError::malformed("index, section 2 (layers)", what));
    if oldest < FURTHER_BLOBS && index.has_further_blobs() {
        return misplaced("several blobs of one layer in a bundle of a format before the fifth");
    }
    let replays = index.layers.iter().filter_map(|layer| layer.replay);
    if oldest < replays.map(|replay| format_of(replay.to_bytes())).max().unwrap_or(1) {
        return misplaced(match oldest {
            1 => "a replay in a bundle of the first format",
            _ => "a replay that is newer than its format",
        });
    }
    let frames = index.frames.iter().map(|frame| frame.stored);
    let recipes = index.recipe_frames.iter().map(|frame| frame.stored);
    let end = frames.chain(recipes).try_fold(HEADER as u64, |at, stored| at.checked_add(stored));
    if end != Some(offset) {
        return Err(BundleError::malformed("index, section 4 (frames)", "the frames do not fill the stream"));
    }
    Ok((index, check))
}

/// Whether bytes begin like a stream.
pub fn is_bundle(first: &[u8]) -> bool {
    first.starts_with(MAGIC)
}
