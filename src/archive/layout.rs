//! A directory: an OCI layout, or an archive that somebody has unpacked. Paths are followed inside it only.

use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use super::container::{Container, read_error};
use super::entries::{self, Entry, HEAD};
use super::error::ArchiveError;
use super::plain::check_limit;
use crate::base::read_at::FileAt;
use crate::base::{AtPath, PathError};
use crate::image::Extent;
use crate::sys::dir::{Dir, Kind};

/// Large reads keep slow media in sequential order.
const BUFFER: usize = 1 << 20;

/// A directory with the entries of an archive.
pub struct LayoutDir {
    origin: String,
    dir: Dir,
    top: Vec<String>,
}

impl LayoutDir {
    /// Opens the directory at `path`.
    pub fn open(path: &Path) -> Result<Self, ArchiveError> {
        let dir = Dir::open(path)?;
        let mut top = Vec::new();
        for entry in std::fs::read_dir(path).at("list", path)?.take(1000) {
            top.push(entry.at("list", path)?.file_name().to_string_lossy().into_owned());
        }
        Ok(Self { origin: path.display().to_string(), dir, top })
    }

    fn file(&self, entry: &Entry) -> Result<std::fs::File, PathError> {
        self.dir.open_file(Path::new(&entry.path))
    }
}

impl Container for LayoutDir {
    fn origin(&self) -> &str {
        &self.origin
    }

    fn find(&self, path: &str) -> Result<Option<Entry>, ArchiveError> {
        let refuse =
            |reason| ArchiveError::Entry { origin: self.origin.clone(), entry: entries::shorten(path), reason };
        let mut path = entries::normalise("", path).ok_or_else(|| refuse("leads out of the directory"))?;
        for _ in 0..=entries::HOPS {
            let metadata = match self.dir.stat(Path::new(&path)) {
                Ok(metadata) => metadata,
                Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            match Kind::in_metadata(&metadata) {
                Some(Kind::Regular) => {
                    let size = u64::try_from(metadata.st_size).unwrap_or_default();
                    return Ok(Some(Entry { path, size, offset: 0 }));
                }
                Some(Kind::Symlink) => {
                    let target = self.dir.read_link(Path::new(&path))?;
                    let inside = target.to_str().and_then(|target| entries::normalise(entries::parent(&path), target));
                    path = inside.ok_or_else(|| refuse("is a link that leads out of the directory"))?;
                }
                _ => return Err(refuse("is neither a plain file nor a link")),
            }
        }
        Err(refuse("goes through too many links"))
    }

    fn read(&self, entry: &Entry, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        check_limit(&self.origin, entry, limit)?;
        let mut bytes = Vec::new();
        let read = self.file(entry)?.take(limit).read_to_end(&mut bytes);
        read.map_err(|error| read_error(&self.origin, &entry.path, error))?;
        Ok(bytes)
    }

    fn head(&self, entry: &Entry) -> Result<Vec<u8>, ArchiveError> {
        let mut bytes = Vec::new();
        let read = self.file(entry)?.take(HEAD as u64).read_to_end(&mut bytes);
        read.map_err(|error| read_error(&self.origin, &entry.path, error))?;
        Ok(bytes)
    }

    fn open(&self, entry: &Entry) -> Result<Box<dyn Read + Send + '_>, ArchiveError> {
        Ok(Box::new(BufReader::with_capacity(BUFFER, self.file(entry)?)))
    }

    fn extent(&self, entry: &Entry) -> Option<Extent> {
        let file = FileAt::new(self.file(entry).ok()?).ok()?;
        Some(Extent { bytes: Arc::new(file), offset: 0 })
    }

    fn top(&self) -> Vec<String> {
        self.top.clone()
    }
}
