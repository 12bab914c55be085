//! A volume inside an executable file: a script and programs in front of it, a trailer behind it that says where it lies.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::base::ReadAt;

/// The trailer's length in bytes.
pub const TRAILER: u64 = 64;
const MAGIC: &[u8; 8] = b"FERRYRUN";
/// What such a file begins with.
const START: &[u8; 2] = b"#!";

/// A file, or the part of one that a volume is.
#[derive(Debug)]
pub struct Slice {
    bytes: Bytes,
    start: u64,
}

/// Where its bytes are.
enum Bytes {
    File(File),
    Elsewhere(Arc<dyn ReadAt>),
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(file) => file.fmt(f),
            Self::Elsewhere(bytes) => write!(f, "{} bytes elsewhere", bytes.size()),
        }
    }
}

impl Bytes {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(buf, offset),
            Self::Elsewhere(bytes) => bytes.read_exact_at(buf, offset),
        }
    }

    fn len(&self) -> io::Result<u64> {
        match self {
            Self::File(file) => Ok(file.metadata()?.len()),
            Self::Elsewhere(bytes) => Ok(bytes.size()),
        }
    }
}

impl Slice {
    /// The volume in `file`, and its length in bytes.
    pub fn of(file: File) -> io::Result<(Self, u64)> {
        match carried_in(&file)? {
            Some((start, len)) if len > 0 => Ok((Self { bytes: Bytes::File(file), start }, len)),
            _ => {
                let len = file.metadata()?.len();
                Ok((Self { bytes: Bytes::File(file), start: 0 }, len))
            }
        }
    }

    /// A volume that is no file here.
    pub fn elsewhere(bytes: Arc<dyn ReadAt>) -> Self {
        Self { bytes: Bytes::Elsewhere(bytes), start: 0 }
    }

    /// How many bytes lie in front of the volume.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Those bytes.
    pub fn lead(&self) -> io::Result<Vec<u8>> {
        let mut lead = vec![0; self.start as usize];
        self.bytes.read_exact_at(&mut lead, 0)?;
        let mut trailer = [0; TRAILER as usize];
        let end = self.bytes.len()?.saturating_sub(TRAILER);
        self.bytes.read_exact_at(&mut trailer, end)?;
        if trailer[24..56] != *blake3::hash(&lead).as_bytes() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the program in front of the bundle is damaged"));
        }
        Ok(lead)
    }

    /// Reads from the volume's byte `offset` on.
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let at = offset.checked_add(self.start).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.bytes.read_exact_at(buf, at)
    }

    /// The whole file's.
    pub fn metadata(&self) -> io::Result<Metadata> {
        match &self.bytes {
            Bytes::File(file) => file.metadata(),
            Bytes::Elsewhere(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// The most bytes in front of a volume.
const LEAD_MAX: u64 = 2 << 30;

/// Where the volume in an executable file lies: its first byte and its length, which is 0 when the volumes lie beside it.
/// Nothing for any other file, and for one whose trailer makes no sense.
pub fn carried_in(file: &File) -> io::Result<Option<(u64, u64)>> {
    let len = file.metadata()?.len();
    let (mut start, mut trailer) = ([0; 2], [0; TRAILER as usize]);
    let Some(end) = len.checked_sub(TRAILER) else { return Ok(None) };
    // What cannot be read here is judged by those who read it.
    if file.read_exact_at(&mut start, 0).is_err() || start != *START || file.read_exact_at(&mut trailer, end).is_err() {
        return Ok(None);
    }
    if trailer[..8] != *MAGIC || trailer[56..] != *MAGIC {
        return Ok(None);
    }
    let number = |at: usize| trailer[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let (at, size) = (number(8), number(16));
    Ok((at <= LEAD_MAX && at.checked_add(size) == Some(end)).then_some((at, size)))
}

/// The trailer of an executable file with a volume of `size` bytes behind `lead`.
pub fn trailer(lead: &[u8], size: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&(lead.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&size.to_le_bytes());
    bytes.extend_from_slice(blake3::hash(lead).as_bytes());
    bytes.extend_from_slice(MAGIC);
    bytes
}
