//! The one way in which metadata and finished files are written: a temporary name in the same directory, fsync,
//! rename, fsync of the directory. After a crash the old or the new file is there, never a part of one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{AtPath, PathError};
use super::syncer::Syncer;

/// Replaces the file at `path` by one of `bytes` with permission bits `mode`. Durable when it returns.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PathError> {
    let mut file = AtomicFile::create(path, mode)?;
    file.write_all(bytes).at("write", path)?;
    file.commit()
}

/// Makes the entries of the directory at `path` durable.
pub fn sync_dir(path: &Path) -> Result<(), PathError> {
    File::open(path).and_then(|dir| dir.sync_all()).at("sync", path)
}

/// Renames `from` to `to` and makes both directories durable. Replaces a file, or an empty directory, at `to`.
pub fn rename(from: &Path, to: &Path) -> Result<(), PathError> {
    fs::rename(from, to).at("rename to", to)?;
    let (old, new) = (parent(from), parent(to));
    sync_dir(new)?;
    if old != new {
        sync_dir(old)?;
    }
    Ok(())
}

/// The directory a path lies in, "." for a bare name.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A file that gets its name only when it is complete. Dropped before that, it is removed. A large one that is written
/// from start to end is synced while it grows.
#[derive(Debug)]
pub struct AtomicFile {
    file: Arc<File>,
    temporary: PathBuf,
    path: PathBuf,
    committed: bool,
    syncer: Syncer,
}

impl AtomicFile {
    /// Opens a new file beside `path` under a temporary name (`.NAME.RANDOM.part`) with permission bits `mode`.
    pub fn create(path: &Path, mode: u32) -> Result<Self, PathError> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput).at("create", path)?;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other).at("create", path)?;
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}.part", hex::encode(random)));
        let temporary = parent(path).join(temporary);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)
            .at("create", &temporary)?;
        Ok(Self { file: Arc::new(file), temporary, path: path.to_owned(), committed: false, syncer: Syncer::default() })
    }

    /// The file itself, for writers that seek or write from several threads.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file its name. Durable when it returns.
    pub fn commit(mut self) -> Result<(), PathError> {
        self.syncer.end().at("write", &self.path)?;
        self.file.sync_all().at("write", &self.path)?;
        fs::rename(&self.temporary, &self.path).at("rename to", &self.path)?;
        self.committed = true;
        sync_dir(parent(&self.path))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = (&*self.file).write(buf)?;
        self.syncer.wrote(&self.file, n as u64)?;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.committed {
            // What is on its way to the medium need not get there: nobody is to wait for it.
            let _ = self.file.set_len(0);
            // Nothing to report to: a leftover has a name that says what it is.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_name_only_when_complete() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let mut file = AtomicFile::create(&path, 0o644).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        write(&path, b"one", 0o644).unwrap();
        write(&path, b"two", 0o644).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
