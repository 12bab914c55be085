//! The head of a volume and the frame of a record: what tells what a file is. See docs/format/volumes.md.

use std::fmt;

use super::bytes::Bytes;

/// The length of a head in bytes.
pub const HEAD: u64 = 64;
/// The length of a frame without its record, in bytes.
pub const FRAME: usize = 80;
/// The longest frame that is read, in bytes.
pub const FRAME_MAX: usize = 64 << 20;
/// The container version that is written, and the only one there is.
pub const VERSION: u16 = 1;
/// The smallest and the largest block, as powers of two.
pub const BLOCK_LOG: std::ops::RangeInclusive<u8> = 12..=20;

const MAGIC: [u8; 8] = *b"\x89ferry\r\n";
const FRAME_MAGIC: [u8; 8] = *b"FERRYREC";
const FRAME_END: [u8; 8] = *b"FERRYEND";

/// Flags of a head and of a core.
pub mod flag {
    /// The set has parity, and its parts begin at multiples of the block size.
    pub const ALIGNED: u8 = 1;
    /// The stream is an age file.
    pub const ENCRYPTED: u8 = 2;
    /// The file is a parity volume; never in a core.
    pub const PARITY: u8 = 4;
}

/// What all volumes of a set have in common.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetId([u8; 16]);

impl SetId {
    /// The ID that follows from what goes into the set: equal input gives equal IDs.
    pub fn derive(input: &[u8]) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&blake3::derive_key("ferry 2026 volume set id v1", input)[..16]);
        Self(id)
    }

    /// Takes 16 raw bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The first 64 bytes of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// log2 of the block size.
    pub block_log: u8,
    /// See [`flag`].
    pub flags: u8,
    /// The volume's number, from 1.
    pub number: u32,
    /// The set it belongs to.
    pub set: SetId,
    /// Data blocks of a full volume, 0 without a limit.
    pub full: u64,
}

/// What the first bytes of a file say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeadParse {
    /// A good head.
    Head(Head),
    /// A good head of another container version.
    Version(u16),
    /// Neither, or a damaged one.
    None,
    /// A head whose checksum is right and whose content is not.
    Malformed(&'static str),
}

impl Head {
    /// The 64 bytes.
    pub fn encode(&self) -> [u8; HEAD as usize] {
        let mut bytes = [0; HEAD as usize];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10] = self.block_log;
        bytes[11] = self.flags;
        bytes[12..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..32].copy_from_slice(self.set.as_bytes());
        bytes[32..40].copy_from_slice(&self.full.to_le_bytes());
        let sum = blake3::hash(&bytes[..48]);
        bytes[48..].copy_from_slice(&sum.as_bytes()[..16]);
        bytes
    }

    /// Reads the first bytes of a file.
    pub fn parse(bytes: &[u8]) -> HeadParse {
        let Some((head, _)) = bytes.split_first_chunk::<{ HEAD as usize }>() else { return HeadParse::None };
        if head[..8] != MAGIC || blake3::hash(&head[..48]).as_bytes()[..16] != head[48..] {
            return HeadParse::None;
        }
        let mut rest = Bytes(&head[8..48]);
        let version = rest.u16().unwrap_or(0);
        if version != VERSION {
            return HeadParse::Version(version);
        }
        Self::fields(rest).map_or_else(HeadParse::Malformed, HeadParse::Head)
    }

    fn fields(mut rest: Bytes<'_>) -> Result<Self, &'static str> {
        let short = "the head is too short";
        let block_log = rest.u8().ok_or(short)?;
        let flags = rest.u8().ok_or(short)?;
        let number = rest.u32().ok_or(short)?;
        let set = SetId(rest.array().ok_or(short)?);
        let full = rest.u64().ok_or(short)?;
        rest.zeros(8).ok_or("reserved bytes of the head are not zero")?;
        if !BLOCK_LOG.contains(&block_log) {
            return Err("the head's block size is out of range");
        }
        if flags & !(flag::ALIGNED | flag::ENCRYPTED | flag::PARITY) != 0 {
            return Err("the head has unknown flags");
        }
        if number == 0 || number > super::record::VOLUMES_MAX {
            return Err("the head's volume number is out of range");
        }
        Ok(Self { block_log, flags, number, set, full })
    }
}

/// Puts `record` into a frame of `len` bytes for the volume `number`.
pub fn frame(record: &[u8], number: u32, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    bytes.extend_from_slice(&FRAME_MAGIC);
    bytes.extend_from_slice(&(len as u32).to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&(record.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&[0; 12]);
    bytes.extend_from_slice(record);
    bytes.resize(len - 48, 0);
    let sum = blake3::hash(&bytes);
    bytes.extend_from_slice(sum.as_bytes());
    bytes.extend_from_slice(&(len as u32).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&FRAME_END);
    bytes
}

/// The length of the frame that ends with these 16 bytes.
pub fn frame_len_at_end(end: &[u8; 16]) -> Option<usize> {
    let mut rest = Bytes(end);
    let len = rest.u32()? as usize;
    rest.zeros(4)?;
    (rest.array::<8>()? == FRAME_END && (FRAME..=FRAME_MAX).contains(&len)).then_some(len)
}

/// The length of the frame that begins with these 12 bytes.
pub fn frame_len_at_start(start: &[u8; 12]) -> Option<usize> {
    let mut rest = Bytes(start);
    (rest.array::<8>()? == FRAME_MAGIC).then_some(())?;
    rest.u32().map(|len| len as usize).filter(|len| (FRAME..=FRAME_MAX).contains(len))
}

/// The volume number and the record in a frame; nothing when it is damaged.
pub fn parse_frame(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (content, end) = bytes.split_at_checked(bytes.len().checked_sub(48)?)?;
    let mut tail = Bytes(end);
    if tail.array::<32>()? != *blake3::hash(content).as_bytes() {
        return None;
    }
    if frame_len_at_end(&tail.array()?)? != bytes.len() {
        return None;
    }
    let mut rest = Bytes(content);
    if frame_len_at_start(&rest.array()?)? != bytes.len() {
        return None;
    }
    let number = rest.u32()?;
    let len = rest.u32()? as usize;
    rest.zeros(12)?;
    let record = rest.take(len)?;
    rest.zeros(rest.0.len())?;
    Some((number, record))
}
