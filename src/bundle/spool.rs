//! What was decompressed: a nameless file, since a bundle's contents are more than there is memory.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError, RwLock};

use rustix::fs::{FallocateFlags, fallocate};

use super::error::{BundleError, Doing};
use crate::base::lock;

/// How much is written at once, in bytes.
const PIECE: usize = 256 << 10;

/// The objects of the frames that were decompressed, at the offsets they have one after another.
pub(super) struct Spool {
    dir: PathBuf,
    /// One: of each of several the kernel would begin to write some out.
    file: OnceLock<File>,
    /// Where each frame begins in the file, and where the last one ends.
    begins: Vec<u64>,
    /// One a frame: whether it is in the file. Locked for reading while that part of the file is read.
    filled: Vec<RwLock<bool>>,
    /// How many [`Need`]s there are.
    needs: Mutex<usize>,
}

/// As long as one of these lives frames stay here; when the last goes they are forgotten.
pub(super) struct Need<'a>(&'a Spool);

impl Drop for Need<'_> {
    fn drop(&mut self) {
        // Held until all is forgotten, so that nobody fills meanwhile what he has just been told stays.
        let mut needs = lock(&self.0.needs);
        *needs -= 1;
        if *needs == 0 {
            self.0.empty();
        }
    }
}

impl Spool {
    /// Room in `dir` for frames of these lengths, in bytes. Nothing is there until the first is filled.
    pub fn new(dir: PathBuf, lengths: impl Iterator<Item = u64>) -> Self {
        let mut begins = vec![0];
        let mut end = 0;
        for length in lengths {
            end += length;
            begins.push(end);
        }
        let filled = (1..begins.len()).map(|_| RwLock::new(false)).collect();
        Self { dir, file: OnceLock::new(), begins, filled, needs: Mutex::default() }
    }

    /// Frames stay from now on.
    pub fn need(&self) -> Need<'_> {
        *lock(&self.needs) += 1;
        Need(self)
    }

    /// Keeps a frame, which `raw` gives, unless it is here. Gives the buffer back, an empty one if it was here.
    pub fn fill(&self, frame: u32, raw: impl FnOnce() -> Result<Vec<u8>, BundleError>) -> Result<Vec<u8>, BundleError> {
        let mut filled = self.filled[frame as usize].write().unwrap_or_else(PoisonError::into_inner);
        if *filled {
            return Ok(Vec::new());
        }
        let raw = raw()?;
        let (file, mut at) = (self.file()?, self.begins[frame as usize]);
        // In one go the kernel would take folios of a frame's size for it, which costs it several times as much.
        for piece in raw.chunks(PIECE) {
            file.write_all_at(piece, at).doing(|| "write the spool file".into())?;
            at += piece.len() as u64;
        }
        *filled = true;
        Ok(raw)
    }

    /// Reads from `offset` of a frame on; false when it is not here.
    pub fn read(&self, frame: u32, offset: u64, buf: &mut [u8]) -> Result<bool, BundleError> {
        let filled = self.filled[frame as usize].read().unwrap_or_else(PoisonError::into_inner);
        if *filled {
            let at = self.begins[frame as usize] + offset;
            self.file()?.read_exact_at(buf, at).doing(|| "read the spool file".into())?;
        }
        Ok(*filled)
    }

    /// Forgets what is here: whoever syncs the file system would wait for bytes to be written out that nobody needs.
    fn empty(&self) {
        let Some(file) = self.file.get() else { return };
        for (filled, range) in self.filled.iter().zip(self.begins.windows(2)) {
            let mut filled = filled.write().unwrap_or_else(PoisonError::into_inner);
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // What a file system without holes keeps may be read again.
            if *filled && fallocate(file, flags, range[0], range[1] - range[0]).is_ok() {
                *filled = false;
            }
        }
    }

    fn file(&self) -> Result<&File, BundleError> {
        if self.file.get().is_none() {
            let dir = &self.dir;
            let file = tempfile::tempfile_in(dir).doing(|| format!("make a spool file in {}", dir.display()))?;
            // Whoever comes second drops its file.
            let _ = self.file.set(file);
        }
        self.file.get().ok_or_else(|| BundleError::Absent { what: "spool file".into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_stay_until_the_last_who_needs_them_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::new(dir.path().to_owned(), [3, 4].into_iter());
        let there = |frame, bytes: &[u8]| {
            let mut buf = vec![0; bytes.len()];
            spool.read(frame, 0, &mut buf).unwrap() && buf == bytes
        };
        let first = spool.need();
        spool.fill(0, || Ok(b"one".to_vec())).unwrap();
        let second = spool.need();
        spool.fill(1, || Ok(b"more".to_vec())).unwrap();
        drop(second);
        assert!(there(0, b"one") && there(1, b"more"));
        drop(first);
        assert!(!there(0, b"one") && !there(1, b"more"));
        // What is filled again stays for the next one.
        let _third = spool.need();
        spool.fill(0, || Ok(b"one".to_vec())).unwrap();
        assert!(there(0, b"one"));
    }
}
