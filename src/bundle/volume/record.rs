//! The record that every volume ends with: core, parity description, signatures. See docs/format/volumes.md.

use std::fmt;

use super::bytes::Bytes;
use super::head::{BLOCK_LOG, FRAME_MAX, SetId, VERSION, flag};
use super::layout::{Layout, ParityLayout};

/// The most volumes of a set, parity included.
pub const VOLUMES_MAX: u32 = 65_535;
/// The most signatures of a set.
pub const SIGNATURES_MAX: usize = 16;
/// The longest signature, in bytes.
pub const SIGNATURE_MAX: usize = 16 << 10;

const CORE_MAGIC: [u8; 8] = *b"FERRYSET";
const ROOT_CONTEXT: &str = "ferry 2026 volume set root v1";

/// A BLAKE3 hash of a block, a piece or a shard.
pub type Hash = [u8; 32];

/// What two sets have in common only when all their bytes of stream and tables are the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Root(Hash);

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What describes a set and proves its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Core {
    /// The set.
    pub set: SetId,
    /// The shape of its data volumes.
    pub layout: Layout,
    /// One hash a piece, volume after volume.
    pub pieces: Vec<Hash>,
}

/// What describes the parity of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParityRecord {
    /// Its shape.
    pub layout: ParityLayout,
    /// One hash a piece of the parity blocks' tables, area after area.
    pub pieces: Vec<Hash>,
    /// One hash a recovery shard of the tables.
    pub shards: Vec<Hash>,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The core.
    pub core: Core,
    /// The parity, when there is some.
    pub parity: Option<ParityRecord>,
    /// OpenSSH signature blobs over [`Core::statement`].
    pub signatures: Vec<Vec<u8>>,
}

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordError {
    /// Another container version.
    Version(u16),
    /// What is wrong.
    Malformed(&'static str),
}

impl From<&'static str> for RecordError {
    fn from(what: &'static str) -> Self {
        Self::Malformed(what)
    }
}

impl Core {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + 32 * self.pieces.len());
        bytes.extend_from_slice(&CORE_MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.push(self.layout.block_log);
        bytes.push(self.layout.flags);
        bytes.extend_from_slice(&self.layout.volumes.to_le_bytes());
        bytes.extend_from_slice(self.set.as_bytes());
        bytes.extend_from_slice(&self.layout.full.to_le_bytes());
        bytes.extend_from_slice(&self.layout.stream.to_le_bytes());
        bytes.extend_from_slice(&(self.pieces.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&[0; 12]);
        bytes.extend_from_slice(self.pieces.as_flattened());
        bytes
    }

    /// The hash over everything that is read.
    pub fn root(&self) -> Root {
        Root(blake3::derive_key(ROOT_CONTEXT, &self.encode()))
    }

    /// The text that is signed.
    pub fn statement(&self) -> String {
        format!(
            "ferry bundle signature v1\nset: {}\nroot: {}\nvolumes: {}\nbytes: {}\n",
            self.set,
            self.root(),
            self.layout.volumes,
            self.layout.stream
        )
    }

    fn parse(rest: &mut Bytes<'_>) -> Result<Self, RecordError> {
        let short = "the record is too short";
        if rest.array::<8>().ok_or(short)? != CORE_MAGIC {
            return Err("the record does not begin with a core".into());
        }
        let version = rest.u16().ok_or(short)?;
        if version != VERSION {
            return Err(RecordError::Version(version));
        }
        let block_log = rest.u8().ok_or(short)?;
        let flags = rest.u8().ok_or(short)?;
        let volumes = rest.u32().ok_or(short)?;
        let set = SetId::from_bytes(rest.array().ok_or(short)?);
        let full = rest.u64().ok_or(short)?;
        let stream = rest.u64().ok_or(short)?;
        let pieces = rest.u32().ok_or(short)?;
        rest.zeros(12).ok_or("reserved bytes of the core are not zero")?;
        if !BLOCK_LOG.contains(&block_log) {
            return Err("the block size is out of range".into());
        }
        if flags & !(flag::ALIGNED | flag::ENCRYPTED) != 0 {
            return Err("the core has unknown flags".into());
        }
        let layout = Layout::new(block_log, flags, full, stream).ok_or("the set's sizes make no sense")?;
        if layout.volumes != volumes || volumes > VOLUMES_MAX || layout.all_pieces() != u64::from(pieces) {
            return Err("the number of volumes or tables does not follow from the sizes".into());
        }
        Ok(Self { set, layout, pieces: hashes(rest, pieces)? })
    }
}

fn hashes(rest: &mut Bytes<'_>, count: u32) -> Result<Vec<Hash>, RecordError> {
    // Taken as a whole first, so that the count is bounded by what is there.
    let len = (count as usize).checked_mul(32).ok_or("too many hashes")?;
    let (hashes, _) = rest.take(len).ok_or("the record is too short for its hashes")?.as_chunks::<32>();
    Ok(hashes.to_vec())
}

impl ParityRecord {
    /// The length of [`ParityRecord::encode`]'s result for this shape.
    pub fn len_for(layout: &ParityLayout) -> u64 {
        32 + 32 * (layout.all_pieces() + layout.recovery_shards().unwrap_or(0))
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&self.layout.volumes.to_le_bytes());
        bytes.extend_from_slice(&(self.layout.stripes as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.layout.per_stripe as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.pieces.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.shards.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&[0; 12]);
        bytes.extend_from_slice(self.pieces.as_flattened());
        bytes.extend_from_slice(self.shards.as_flattened());
        bytes
    }

    fn parse(bytes: &[u8], data: Layout) -> Result<Self, RecordError> {
        let short = "the parity description is too short";
        let mut rest = Bytes(bytes);
        let volumes = rest.u32().ok_or(short)?;
        let stripes = rest.u32().ok_or(short)?;
        let per_stripe = rest.u32().ok_or(short)?;
        let pieces = rest.u32().ok_or(short)?;
        let shards = rest.u32().ok_or(short)?;
        rest.zeros(12).ok_or("reserved bytes of the parity description are not zero")?;
        if volumes.saturating_add(data.volumes) > VOLUMES_MAX {
            return Err("there are too many parity volumes".into());
        }
        let layout = ParityLayout::from_record(data, volumes, stripes.into(), per_stripe.into())
            .ok_or("the shape of the parity makes no sense")?;
        if layout.all_pieces() != u64::from(pieces) || layout.recovery_shards() != Some(shards.into()) {
            return Err("the number of parity tables does not follow from its shape".into());
        }
        let record = Self { layout, pieces: hashes(&mut rest, pieces)?, shards: hashes(&mut rest, shards)? };
        if !rest.0.is_empty() {
            return Err("the parity description is too long".into());
        }
        Ok(record)
    }
}

impl Record {
    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.core.encode();
        let parity = self.parity.as_ref().map(ParityRecord::encode).unwrap_or_default();
        bytes.extend_from_slice(&(parity.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&parity);
        bytes.extend_from_slice(&(self.signatures.len() as u32).to_le_bytes());
        for signature in &self.signatures {
            bytes.extend_from_slice(&(signature.len() as u32).to_le_bytes());
            bytes.extend_from_slice(signature);
        }
        bytes
    }

    /// Reads a record, which must be all of `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > FRAME_MAX {
            return Err("the record is over the limit of 64 MiB".into());
        }
        let short = "the record is too short";
        let mut rest = Bytes(bytes);
        let core = Core::parse(&mut rest)?;
        let parity = rest.u32().ok_or(short)? as usize;
        let parity = rest.take(parity).ok_or(short)?;
        if parity.is_empty() == core.layout.aligned() {
            return Err("the set has parity exactly when it is aligned, and here only one of both holds".into());
        }
        let parity = if parity.is_empty() { None } else { Some(ParityRecord::parse(parity, core.layout)?) };
        let count = rest.u32().ok_or(short)? as usize;
        if count > SIGNATURES_MAX {
            return Err("there are too many signatures".into());
        }
        let mut signatures = Vec::with_capacity(count);
        for _ in 0..count {
            let len = rest.u32().ok_or(short)? as usize;
            if len > SIGNATURE_MAX {
                return Err("a signature is too long".into());
            }
            signatures.push(rest.take(len).ok_or(short)?.to_vec());
        }
        if !rest.0.is_empty() {
            return Err("the record is too long".into());
        }
        Ok(Self { core, parity, signatures })
    }

    /// The length of this record's frames in bytes.
    pub fn frame_len(&self) -> usize {
        self.core.layout.frame_len(self.encode().len())
    }

    /// All volumes, parity included.
    pub fn all_volumes(&self) -> u32 {
        self.core.layout.volumes + self.parity.as_ref().map_or(0, |parity| parity.layout.volumes)
    }

    /// How long the file of volume `number` (from 1) is, in bytes.
    pub fn file_len(&self, number: u32) -> u64 {
        let frame = self.frame_len() as u64;
        let layout = &self.core.layout;
        let v = number - 1;
        match &self.parity {
            Some(parity) if v >= layout.volumes => parity.layout.area(v - layout.volumes, frame).end,
            Some(parity) if parity.layout.volumes == 0 => parity.layout.area(0, frame).end,
            Some(_) => layout.table_end(v) + 2 * frame,
            None => layout.table_end(v) + frame,
        }
    }
}
