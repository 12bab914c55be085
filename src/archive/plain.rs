//! An uncompressed archive that is a file: indexed by a walk over its headers, read in place by any number of threads.

use std::io::{BufReader, Read};
use std::sync::Arc;

use super::container::{Container, read_error};
use super::entries::{Entries, Entry, HEAD};
use super::error::ArchiveError;
use super::tar::{FileWalk, Walk, WalkError};
use crate::base::caps::OverLimit;
use crate::base::read_at::{ReadAt, Section};
use crate::image::Extent;

/// For those who read little at a time; larger reads go past the buffer, uncopied.
const BUFFER: usize = 64 << 10;

/// A plain tar.
pub struct PlainTar {
    origin: String,
    file: Arc<dyn ReadAt>,
    entries: Entries,
}

impl PlainTar {
    /// Indexes `file`.
    pub fn open(origin: String, file: Arc<dyn ReadAt>) -> Result<Self, ArchiveError> {
        let mut entries = Entries::default();
        let mut walk = Walk::new(FileWalk::new(file.clone()));
        while let Some(member) = walk.next().map_err(|error| walk_error(&origin, error))? {
            entries.add(&member, &origin)?;
        }
        Ok(Self { origin, file, entries })
    }
}

/// An error of the walk, with the archive's name.
pub fn walk_error(origin: &str, error: WalkError) -> ArchiveError {
    match error {
        WalkError::Io(source) => read_error(origin, "the archive", source),
        WalkError::Malformed(offset, reason) => ArchiveError::Tar { origin: origin.to_owned(), offset, reason },
    }
}

/// Refuses a document that is too large.
pub fn check_limit(origin: &str, entry: &Entry, limit: u64) -> Result<(), ArchiveError> {
    if entry.size <= limit {
        return Ok(());
    }
    let source = OverLimit { what: entry.path.clone(), limit, unit: "bytes" };
    Err(ArchiveError::OverLimit { origin: origin.to_owned(), source })
}

impl Container for PlainTar {
    fn origin(&self) -> &str {
        &self.origin
    }

    fn find(&self, path: &str) -> Result<Option<Entry>, ArchiveError> {
        self.entries.find(path, &self.origin)
    }

    fn read(&self, entry: &Entry, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        check_limit(&self.origin, entry, limit)?;
        let mut bytes = vec![0; usize::try_from(entry.size).unwrap_or(usize::MAX)];
        let read = self.file.read_exact_at(&mut bytes, entry.offset);
        read.map_err(|error| read_error(&self.origin, &entry.path, error))?;
        Ok(bytes)
    }

    fn head(&self, entry: &Entry) -> Result<Vec<u8>, ArchiveError> {
        let mut bytes = vec![0; HEAD.min(usize::try_from(entry.size).unwrap_or(HEAD))];
        let read = self.file.read_exact_at(&mut bytes, entry.offset);
        read.map_err(|error| read_error(&self.origin, &entry.path, error))?;
        Ok(bytes)
    }

    fn open(&self, entry: &Entry) -> Result<Box<dyn Read + Send + '_>, ArchiveError> {
        let section = Section::new(self.file.clone(), entry.offset, entry.size);
        Ok(Box::new(BufReader::with_capacity(BUFFER, section)))
    }

    fn extent(&self, entry: &Entry) -> Option<Extent> {
        Some(Extent { bytes: self.file.clone(), offset: entry.offset })
    }

    fn top(&self) -> Vec<String> {
        self.entries.top().into_iter().map(Into::into).collect()
    }
}
