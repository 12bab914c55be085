//! A volume that is being written: it bears another name until the whole set is on the disk.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::error::VolumeError;
use crate::base::{AtPath, PathError};

/// A file under its `.part` name. With `resume` what is there already is compared instead of written, and kept when
/// the work fails; otherwise it is removed then.
#[derive(Debug)]
pub struct Part {
    file: File,
    path: PathBuf,
    part: PathBuf,
    /// Bytes of an earlier run that can be compared with.
    there: u64,
    /// The earlier run had finished this file.
    finished: bool,
    resume: bool,
    done: bool,
}

impl Part {
    /// Begins the volume that will be called `path`.
    pub fn create(path: &Path, resume: bool) -> Result<Self, VolumeError> {
        let mut name = path.as_os_str().to_owned();
        name.push(".part");
        let part = PathBuf::from(name);
        let mut finished = false;
        let file = if resume && !part.exists() && path.exists() {
            finished = true;
            File::open(path).at("open", path)?
        } else {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o644).custom_flags(libc::O_NOFOLLOW);
            let file = options.open(&part).at("create", &part)?;
            let lock = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
            // A file system without locks is no reason not to write to it.
            if lock == Err(rustix::io::Errno::WOULDBLOCK) {
                let text = format!("{} is being written by another ferry", part.display());
                return Err(VolumeError::Unsuitable(text));
            }
            if !resume {
                file.set_len(0).at("truncate", &part)?;
            }
            file
        };
        let there = file.metadata().at("read", &part)?.len();
        Ok(Self { file, path: path.to_owned(), part, there, finished, resume, done: false })
    }

    /// The name it will have.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `bytes`, unless they are there; says whether it wrote.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<bool, VolumeError> {
        if offset + bytes.len() as u64 <= self.there {
            let mut old = vec![0; bytes.len()];
            self.file.read_exact_at(&mut old, offset).at("read", &self.part)?;
            if old == bytes {
                return Ok(false);
            }
        }
        if self.finished {
            return Err(VolumeError::Differs { path: self.path.clone() });
        }
        self.file.write_all_at(bytes, offset).at("write", &self.part)?;
        Ok(true)
    }

    /// Reads what was written.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<(), VolumeError> {
        Ok(self.file.read_exact_at(bytes, offset).at("read", &self.part)?)
    }

    /// Cuts off what an earlier run left behind `len` bytes, and makes the file durable.
    pub fn complete(&self, len: u64) -> Result<(), VolumeError> {
        if self.finished {
            return if self.there == len { Ok(()) } else { Err(VolumeError::Differs { path: self.path.clone() }) };
        }
        self.file.set_len(len).at("truncate", &self.part)?;
        Ok(self.file.sync_all().at("write", &self.part)?)
    }

    /// Gives the file its name. The directory is the caller's to sync.
    pub fn name(&mut self) -> Result<(), PathError> {
        if !self.finished {
            fs::rename(&self.part, &self.path).at("rename to", &self.path)?;
        }
        self.done = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.done && !self.resume && !self.finished {
            // Nothing to report to: a leftover has a name that says what it is.
            let _: io::Result<()> = fs::remove_file(&self.part);
        }
    }
}
