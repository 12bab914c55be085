//! Reading what a medium holds, not what the page cache remembers of it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::base::{AtPath, PathError};

/// What direct reads must be aligned to, in bytes: the largest sector in use.
const ALIGNMENT: usize = 4096;
/// How much is read at once, in bytes.
const READ: usize = 1 << 20;

/// Reads a file from its first byte to its last by direct reads, or, where the file system has none, after its clean
/// pages were dropped from the cache. The file must have been synced.
pub struct DirectReader {
    file: File,
    cached: File,
    space: Vec<u8>,
    /// Bytes of `space` that are read and not given out yet.
    ready: std::ops::Range<usize>,
    left: u64,
}

impl DirectReader {
    /// Opens the file at `path`.
    pub fn open(path: &Path) -> Result<Self, PathError> {
        let cached = File::open(path).at("open", path)?;
        let left = cached.metadata().at("look at", path)?.len();
        // Direct reads of pages that are in the cache may be served from it on some file systems: drop them anyhow.
        rustix::fs::fadvise(&cached, 0, None, rustix::fs::Advice::DontNeed).at("drop the cache of", path)?;
        let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path);
        let file = match direct {
            Ok(file) => file,
            Err(_) => cached.try_clone().at("open", path)?,
        };
        Ok(Self { file, cached, space: vec![0; READ + ALIGNMENT], ready: 0..0, left })
    }
}

impl Read for DirectReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // A direct read stops short only at the end; another one from there would be unaligned.
        if self.ready.is_empty() && self.left > 0 {
            let start = self.space.as_ptr().align_offset(ALIGNMENT);
            let space = self.space.get_mut(start..start + READ).unwrap_or_default();
            let n = match self.file.read(space) {
                // Some file systems open files for direct reads and then have none.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    self.file = self.cached.try_clone()?;
                    self.file.read(space)?
                }
                result => result?,
            };
            self.left = if n == 0 { 0 } else { self.left.saturating_sub(n as u64) };
            self.ready = start..start + n;
        }
        let n = buf.len().min(self.ready.len());
        let (from, to) = (self.ready.start, self.ready.start + n);
        buf[..n].copy_from_slice(&self.space[from..to]);
        self.ready.start = to;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_any_length_is_read_as_it_is() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR").to_owned() + "/target").unwrap();
        for size in [0, 1, 4095, 4096, 5000, READ, READ + 1] {
            let bytes: Vec<u8> = (0..size).map(|i| (i / 3) as u8).collect();
            let path = dir.path().join(size.to_string());
            std::fs::write(&path, &bytes).unwrap();
            let mut back = Vec::new();
            DirectReader::open(&path).unwrap().read_to_end(&mut back).unwrap();
            assert!(back == bytes, "{size}");
        }
    }
}
