//! Content lists: the BLAKE3 hash of every file of a layer, in the order of its tar-split.
//!
//! `ferry/contents/sha256/<chain ID>` is a header of 40 bytes (`FERRYCL1`, as little-endian 64-bit numbers how many
//! entries there are, the sum of their sizes and the size of the layer's tar, then the last 8 bytes of its
//! `tar-split.json.gz`) and 40 bytes an entry: the hash and the size. Those 8 bytes are gzip's CRC and size of what is compressed: a list with
//! others than the tar-split it is read with is none, for dockerd has made the layer anew and may have cut it otherwise.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::base::{AtPath, ContentId, PathError, caps};
use crate::layer::Content;

const MAGIC: &[u8; 8] = b"FERRYCL1";
const HEADER: u64 = 40;
const ENTRY: u64 = 40;

/// The last 8 bytes of a `tar-split.json.gz`.
pub type Fingerprint = [u8; 8];

/// Reads the fingerprint of a tar-split; zeros of a file that is too short to be one.
pub fn fingerprint(tar_split: &Path) -> Result<Fingerprint, PathError> {
    let read = || -> io::Result<Fingerprint> {
        let file = File::open(tar_split)?;
        let mut bytes = [0; 8];
        if let Some(at) = file.metadata()?.len().checked_sub(8) {
            file.read_exact_at(&mut bytes, at)?;
        }
        Ok(bytes)
    };
    read().at("read", tar_split)
}

/// The content IDs of a layer's files that are not empty, in tar-split order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentList {
    /// The size of the layer's tar in bytes.
    pub tar_size: u64,
    /// The last bytes of the tar-split that the list belongs to.
    pub fingerprint: Fingerprint,
    /// One an entry.
    pub entries: Vec<Content>,
}

impl ContentList {
    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER as usize + ENTRY as usize * self.entries.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&(self.entries.len() as u64).to_le_bytes());
        let sum = self.entries.iter().fold(0, |sum: u64, entry| sum.saturating_add(entry.size));
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes.extend_from_slice(&self.tar_size.to_le_bytes());
        bytes.extend_from_slice(&self.fingerprint);
        for entry in &self.entries {
            bytes.extend_from_slice(entry.id.as_bytes());
            bytes.extend_from_slice(&entry.size.to_le_bytes());
        }
        bytes
    }

    /// Reads a list; `None` when there is none, or one that is not whole.
    pub fn read(path: &Path) -> Result<Option<Self>, PathError> {
        open(path)?.map(|opened| Self::parse(opened).at("read", path)).transpose()
    }

    /// The size of a layer's tar as its list has it; `None` when there is no list that belongs to this tar-split.
    pub fn tar_size(path: &Path, tar_split: &Path) -> Result<Option<u64>, PathError> {
        let Some((header, _)) = open(path)? else { return Ok(None) };
        Ok((header.fingerprint == fingerprint(tar_split)?).then_some(header.tar_size))
    }

    fn parse((header, mut file): (Header, io::BufReader<File>)) -> io::Result<Self> {
        let mut entries = Vec::with_capacity(usize::try_from(header.count).unwrap_or(0));
        for _ in 0..header.count {
            let (mut id, mut size) = ([0; 32], [0; 8]);
            file.read_exact(&mut id)?;
            file.read_exact(&mut size)?;
            entries.push(Content { id: ContentId::from_bytes(id), size: u64::from_le_bytes(size) });
        }
        Ok(Self { tar_size: header.tar_size, fingerprint: header.fingerprint, entries })
    }
}

struct Header {
    count: u64,
    tar_size: u64,
    fingerprint: Fingerprint,
}

fn open(path: &Path) -> Result<Option<(Header, io::BufReader<File>)>, PathError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).at("open", path),
    };
    let size = file.metadata().at("read", path)?.len();
    if size < HEADER {
        return Ok(None);
    }
    let mut file = io::BufReader::new(file);
    let mut header = [0; HEADER as usize];
    file.read_exact(&mut header).at("read", path)?;
    let eight = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&header[at..at + 8]);
        bytes
    };
    let number = |at: usize| u64::from_le_bytes(eight(at));
    let count = number(8);
    let whole = &header[..8] == MAGIC && count <= caps::LAYER_ENTRIES && size == HEADER + ENTRY * count;
    let header = Header { count, tar_size: number(24), fingerprint: eight(32) };
    Ok(whole.then_some((header, file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_comes_back_and_a_damaged_one_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        assert_eq!(ContentList::read(&path).unwrap(), None);
        let of = |bytes: &[u8]| Content { id: ContentId::of(bytes), size: bytes.len() as u64 };
        let entries = vec![of(b"abc"), of(b"abcd")];
        let list = ContentList { tar_size: 2048, fingerprint: [7; 8], entries };
        std::fs::write(&path, list.to_bytes()).unwrap();
        assert_eq!(ContentList::read(&path).unwrap(), Some(list));
        let whole = std::fs::read(&path).unwrap();
        for damaged in [&whole[..whole.len() - 1], &whole[..10], &[b"X", &whole[1..]].concat()] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(ContentList::read(&path).unwrap(), None);
        }
    }
}
