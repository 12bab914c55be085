//! A volume that is being written: it bears another name until the whole set is on the disk.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::copy::is_damaged_at;
use super::error::VolumeError;
use super::slice::trailer;
use crate::base::{AtPath, PathError, Syncer, lock};

/// A file under its `.part` name. With `resume` what is there already is compared instead of written, and kept when
/// the work fails; otherwise it is removed then.
#[derive(Debug)]
pub struct Part {
    file: Arc<File>,
    syncer: Arc<Mutex<Syncer>>,
    path: PathBuf,
    part: PathBuf,
    /// Bytes of an earlier run that can be compared with.
    there: u64,
    /// The earlier run had finished this file.
    finished: bool,
    resume: bool,
    done: bool,
    lead: Option<Arc<Vec<u8>>>,
    /// Where the volume begins in the file.
    start: u64,
}

/// How volumes are begun.
#[derive(Debug, Clone, Default)]
pub struct PartOptions {
    /// Compare with what is there already, and keep it when the work fails.
    pub resume: bool,
    /// A file that has the name already stays, and that is an error.
    pub only_new: bool,
    /// The device number of the file system that the files must lie on: where a medium was mounted is an ordinary
    /// directory when it is gone.
    pub device: Option<u64>,
    /// What makes the file executable: it stands in front of the volume.
    pub lead: Option<Arc<Vec<u8>>>,
    /// What syncs the volumes of a set while they are written.
    pub syncer: Arc<Mutex<Syncer>>,
}

impl Part {
    /// Begins the volume that will be called `path`.
    pub fn create(path: &Path, options: PartOptions) -> Result<Self, VolumeError> {
        let PartOptions { resume, only_new, device, lead, syncer } = options;
        // Images may hold secrets: nobody else reads what is made of them, as with docker save.
        let mode = if lead.is_some() { 0o700 } else { 0o600 };
        let start = lead.as_ref().map_or(0, |lead| lead.len() as u64);
        let mut name = path.as_os_str().to_owned();
        name.push(".part");
        let part = PathBuf::from(name);
        let mut finished = false;
        let file = if resume && !part.exists() && path.exists() {
            finished = true;
            File::open(path).at("open", path)?
        } else {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(mode).custom_flags(libc::O_NOFOLLOW);
            let file = options.open(&part).at("create", &part)?;
            if device.is_some_and(|device| file.metadata().is_ok_and(|meta| meta.dev() != device)) {
                // Made a moment ago, where nobody wants it.
                let _: io::Result<()> = fs::remove_file(&part);
                return Err(VolumeError::Gone { path: part });
            }
            own(&file, &part)?;
            // Looked at only now: whoever had the lock before may have given a file of its own that name.
            if only_new && fs::symlink_metadata(path).is_ok() {
                let _: io::Result<()> = fs::remove_file(&part);
                return Err(VolumeError::Exists { path: path.to_owned() });
            }
            if !resume {
                file.set_len(0).at("truncate", &part)?;
            }
            file
        };
        match &lead {
            Some(lead) if finished && !begins_with(&file, lead).at("read", path)? => {
                return Err(VolumeError::Differs { path: path.to_owned() });
            }
            Some(lead) if !finished => file.write_all_at(lead, 0).at("write", &part)?,
            _ => {}
        }
        let there = file.metadata().at("read", &part)?.len().saturating_sub(start);
        let file = Arc::new(file);
        Ok(Self { file, syncer, path: path.to_owned(), part, there, finished, resume, done: false, lead, start })
    }

    /// The name it will have.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `bytes` at the volume's byte `offset`, unless they are there; says whether it wrote.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<bool, VolumeError> {
        if offset + bytes.len() as u64 <= self.there {
            let mut old = vec![0; bytes.len()];
            self.file.read_exact_at(&mut old, self.start + offset).at("read", &self.part)?;
            if old == bytes {
                return Ok(false);
            }
        }
        if self.finished {
            return Err(self.differs(offset));
        }
        self.file.write_all_at(bytes, self.start + offset).at("write", &self.part)?;
        lock(&self.syncer).wrote(&self.file, bytes.len() as u64).at("write", &self.part)?;
        Ok(true)
    }

    /// Reads what was written.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<(), VolumeError> {
        Ok(self.file.read_exact_at(bytes, self.start + offset).at("read", &self.part)?)
    }

    /// Cuts off what an earlier run left behind `len` bytes, and makes the file durable.
    pub fn complete(&self, len: u64) -> Result<(), VolumeError> {
        let trailer = self.lead.as_ref().map_or_else(Vec::new, |lead| trailer(lead, len));
        if self.finished {
            let mut old = vec![0; trailer.len()];
            let same = self.there == len + trailer.len() as u64
                && self.file.read_exact_at(&mut old, self.start + len).is_ok()
                && old == trailer;
            return if same { Ok(()) } else { Err(self.differs(len)) };
        }
        self.file.set_len(self.start + len).at("truncate", &self.part)?;
        self.file.write_all_at(&trailer, self.start + len).at("write", &self.part)?;
        lock(&self.syncer).end().at("write", &self.part)?;
        Ok(self.file.sync_all().at("write", &self.part)?)
    }

    /// Why a finished file that has something else at the volume's byte `offset` cannot stay.
    fn differs(&self, offset: u64) -> VolumeError {
        let path = self.path.clone();
        match is_damaged_at(&path, offset) {
            true => VolumeError::DamagedThere { path },
            false => VolumeError::Differs { path },
        }
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
        // What another ferry put under this name is its own, and so is what it made of this file.
        if !self.done && !self.resume && !self.finished && lies_at(&self.file, &self.part) {
            // What is on its way to the medium need not get there: nobody is to wait for it.
            let _: io::Result<()> = self.file.set_len(0);
            // Nothing to report to: a leftover has a name that says what it is.
            let _: io::Result<()> = fs::remove_file(&self.part);
        }
    }
}

/// Locks a file that was opened at `part`. Fails when another ferry writes it, or did a moment ago: between the opening
/// and the lock it may have finished the file and given it its name, and that is not to be written to.
fn own(file: &File, part: &Path) -> Result<(), VolumeError> {
    let lock = rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    // A file system without locks is no reason not to write to it.
    if lock == Err(rustix::io::Errno::WOULDBLOCK) || !lies_at(file, part) {
        return Err(VolumeError::Unsuitable(format!("{} is being written by another ferry", part.display())));
    }
    Ok(())
}

/// Whether `path` is still the name of an open file.
fn lies_at(file: &File, path: &Path) -> bool {
    let place = |meta: fs::Metadata| (meta.dev(), meta.ino());
    let there = fs::symlink_metadata(path).map(place);
    there.is_ok_and(|there| file.metadata().is_ok_and(|meta| place(meta) == there))
}

/// Whether a file begins with these bytes.
fn begins_with(file: &File, bytes: &[u8]) -> io::Result<bool> {
    let mut old = vec![0; bytes.len()];
    match file.read_exact_at(&mut old, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| old == bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_got_its_name_between_opening_and_lock_is_not_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let (path, part) = (dir.path().join("a.ferry"), dir.path().join("a.ferry.part"));
        let mut first = Part::create(&path, PartOptions::default()).unwrap();
        first.write_at(b"whole", 0).unwrap();
        // The second writer has opened the file when the first one ends.
        let second = OpenOptions::new().read(true).write(true).open(&part).unwrap();
        assert!(own(&second, &part).is_err(), "locked by the first");
        first.complete(5).unwrap();
        first.name().unwrap();
        drop(first);
        assert!(own(&second, &part).is_err(), "named by the first");
        // Nor does another file under the old name make it the second's.
        fs::write(&part, b"other").unwrap();
        assert!(own(&second, &part).is_err());
        assert!(own(&OpenOptions::new().write(true).open(&part).unwrap(), &part).is_ok());
    }

    #[test]
    fn a_volume_that_another_writer_named_meanwhile_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.001.ferry");
        let begin = |only_new| Part::create(&path, PartOptions { only_new, ..PartOptions::default() });
        let mut first = begin(true).unwrap();
        assert!(begin(true).is_err(), "it is being written");
        first.write_at(b"whole", 0).unwrap();
        first.complete(5).unwrap();
        first.name().unwrap();
        drop(first);
        // The second writer has seen no file of that name, and opens its own only now.
        let refused = begin(true).unwrap_err();
        assert!(matches!(&refused, VolumeError::Exists { path: at } if *at == path), "{refused}");
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left of the second");
        // One that is to be replaced may be there.
        assert!(begin(false).is_ok());
    }

    #[test]
    fn a_writer_that_fails_removes_only_what_is_still_its_own() {
        for taken in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let (path, part) = (dir.path().join("a.ferry"), dir.path().join("a.ferry.part"));
            let failing = Part::create(&path, PartOptions::default()).unwrap();
            failing.write_at(b"whole", 0).unwrap();
            if taken {
                // On a file system without locks two may have had it, and the other one was done first.
                fs::rename(&part, &path).unwrap();
                fs::write(&part, b"a third one's").unwrap();
            }
            drop(failing);
            assert_eq!(part.exists(), taken);
            assert_eq!(fs::read(&path).ok().as_deref(), taken.then_some(&b"whole"[..]));
        }
    }
}
