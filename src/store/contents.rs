//! Content lists: the BLAKE3 hash of every file of a layer, in the order of its tar-split.
//!
//! `ferry/contents/sha256/<chain ID>` is a header of 24 bytes (`FERRYCL1`, the number of entries and the sum of their
//! sizes as little-endian 64-bit numbers) and then 32 bytes an entry. A list whose numbers do not fit the tar-split it
//! is read with is none: dockerd may have made the layer anew.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::base::{AtPath, ContentId, PathError, caps};

const MAGIC: &[u8; 8] = b"FERRYCL1";
const HEADER: u64 = 24;

/// The content IDs of a layer's files that are not empty, in tar-split order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentList {
    /// The sum of the files' sizes in bytes.
    pub bytes: u64,
    /// One an entry.
    pub ids: Vec<ContentId>,
}

impl ContentList {
    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER as usize + 32 * self.ids.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&(self.ids.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&self.bytes.to_le_bytes());
        for id in &self.ids {
            bytes.extend_from_slice(id.as_bytes());
        }
        bytes
    }

    /// Reads a list; `None` when there is none, or one that is not whole.
    pub fn read(path: &Path) -> Result<Option<Self>, PathError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).at("open", path),
        };
        Self::parse(file).at("read", path)
    }

    fn parse(file: File) -> io::Result<Option<Self>> {
        let size = file.metadata()?.len();
        let mut file = io::BufReader::new(file);
        let mut header = [0; HEADER as usize];
        if size < HEADER {
            return Ok(None);
        }
        file.read_exact(&mut header)?;
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&header[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let count = number(8);
        if &header[..8] != MAGIC || count > caps::LAYER_ENTRIES || size != HEADER + 32 * count {
            return Ok(None);
        }
        let mut ids = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
        for _ in 0..count {
            let mut id = [0; 32];
            file.read_exact(&mut id)?;
            ids.push(ContentId::from_bytes(id));
        }
        Ok(Some(Self { bytes: number(16), ids }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_comes_back_and_a_damaged_one_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        assert_eq!(ContentList::read(&path).unwrap(), None);
        let list = ContentList { bytes: 7, ids: vec![ContentId::of(b"abc"), ContentId::of(b"abcd")] };
        std::fs::write(&path, list.to_bytes()).unwrap();
        assert_eq!(ContentList::read(&path).unwrap(), Some(list));
        let whole = std::fs::read(&path).unwrap();
        for damaged in [&whole[..whole.len() - 1], &whole[..10], &[b"X", &whole[1..]].concat()] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(ContentList::read(&path).unwrap(), None);
        }
    }
}
