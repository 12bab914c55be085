//! What a directory is before ferry touches it, and whether a daemon works on it.
//!
//! Docker 20.10 holds `volumes/metadata.db` and its containerd's `meta.db` locked (flock, by bbolt) as long as it
//! runs; Docker 26 holds `network/files/local-kv.db` as well. The locks say more than a PID file: they end with the
//! process, and they are seen across PID namespaces.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::error::StoreError;
use crate::base::AtPath;
use crate::sys::lock::{FileLock, LockKind};

/// Files a daemon holds locked while it runs, and which daemon that is.
const DAEMON_LOCKS: [(&str, &str); 4] = [
    ("volumes/metadata.db", "dockerd"),
    ("network/files/local-kv.db", "dockerd"),
    ("containerd/daemon/io.containerd.metadata.v1.bolt/meta.db", "containerd"),
    ("io.containerd.metadata.v1.bolt/meta.db", "containerd"),
];

/// What lies at a store's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing, or an empty directory.
    Empty,
    /// A store that ferry has written to.
    Ferry,
    /// A data-root of Docker's that ferry has not written to.
    Docker,
}

/// Recognises what is at `root`; what ferry cannot open is an error that says the way out.
pub fn recognise(root: &Path) -> Result<Kind, StoreError> {
    let has = |name: &str| root.join(name).symlink_metadata().is_ok();
    if has("ferry/version") {
        return Ok(Kind::Ferry);
    }
    if has("io.containerd.metadata.v1.bolt") {
        return Err(StoreError::ContainerdStore(root.to_owned()));
    }
    if has("image/overlay2") {
        return Ok(Kind::Docker);
    }
    if let Some(driver) = only_driver(root)? {
        return Err(StoreError::Driver { root: root.to_owned(), driver });
    }
    if has("volumes/metadata.db") || has("containerd/daemon") {
        return Err(StoreError::ContainerdStore(root.to_owned()));
    }
    let not_a_store = |reason| Err(StoreError::NotAStore { root: root.to_owned(), reason });
    if has("overlay-images") || has("vfs-images") {
        return not_a_store("it is a storage of podman's; export its images with `podman save`");
    }
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kind::Empty),
        Err(error) => return Err(error).at("open", root)?,
    };
    for entry in entries {
        let name = entry.at("read", root)?.file_name();
        // `ferry/` without a version file is what a crash during the very first use leaves.
        if name != "lost+found" && name != "ferry" {
            return not_a_store("it holds other files");
        }
    }
    Ok(Kind::Empty)
}

/// The storage driver of a data-root that has no overlay2.
fn only_driver(root: &Path) -> Result<Option<String>, StoreError> {
    let path = root.join("image");
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).at("open", &path)?,
    };
    for entry in entries {
        let entry = entry.at("read", &path)?;
        if entry.path().join("imagedb").is_dir() {
            return Ok(Some(entry.file_name().to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

/// Locks that keep a daemon from starting on the directory while ferry writes: bbolt waits for them.
#[derive(Debug)]
pub struct DaemonsOut {
    _locks: Vec<FileLock>,
}

/// Makes sure that no daemon works on `root`, and that none begins to until the result is dropped.
pub fn keep_daemons_out(root: &Path) -> Result<DaemonsOut, StoreError> {
    let mut locks = Vec::new();
    for (name, daemon) in DAEMON_LOCKS {
        let path = root.join(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            Err(error) => return Err(error).at("open", &path)?,
        };
        match FileLock::attempt(file, LockKind::Shared).at("lock", &path)? {
            Ok(lock) => locks.push(lock),
            Err(_) => return Err(StoreError::DaemonRuns { root: root.to_owned(), daemon, lock: path }),
        }
    }
    Ok(DaemonsOut { _locks: locks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_directory_is_told_apart() {
        type Check = fn(&Result<Kind, StoreError>) -> bool;
        let table: [(&[&str], Check); 9] = [
            (&[], |r| matches!(r, Ok(Kind::Empty))),
            (&["lost+found"], |r| matches!(r, Ok(Kind::Empty))),
            (&["image/overlay2/imagedb", "volumes/metadata.db"], |r| matches!(r, Ok(Kind::Docker))),
            (&["image/overlay2", "ferry/version"], |r| matches!(r, Ok(Kind::Ferry))),
            (&["image/btrfs/imagedb"], |r| matches!(r, Err(StoreError::Driver { driver, .. }) if driver == "btrfs")),
            (&["volumes/metadata.db", "containerd/daemon"], |r| matches!(r, Err(StoreError::ContainerdStore(_)))),
            (&["io.containerd.metadata.v1.bolt"], |r| matches!(r, Err(StoreError::ContainerdStore(_)))),
            (&["overlay-images"], |r| matches!(r, Err(StoreError::NotAStore { .. }))),
            (&["letters"], |r| matches!(r, Err(StoreError::NotAStore { .. }))),
        ];
        for (names, check) in table {
            let dir = tempfile::tempdir().unwrap();
            for name in names {
                fs::create_dir_all(dir.path().join(name)).unwrap();
            }
            let kind = recognise(dir.path());
            assert!(check(&kind), "{names:?}: {kind:?}");
        }
        assert!(matches!(recognise(Path::new("/does/not/exist")), Ok(Kind::Empty)));
    }

    #[test]
    fn a_directory_whose_database_is_locked_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("volumes")).unwrap();
        let path = dir.path().join("volumes/metadata.db");
        let held = FileLock::attempt(File::create(&path).unwrap(), LockKind::Exclusive).unwrap().unwrap();
        assert!(matches!(keep_daemons_out(dir.path()), Err(StoreError::DaemonRuns { daemon: "dockerd", .. })));
        drop(held);
        let ours = keep_daemons_out(dir.path()).unwrap();
        let _theirs = keep_daemons_out(dir.path()).unwrap();
        drop(ours);
    }
}
