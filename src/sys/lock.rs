//! Advisory locks on whole files, flock(2): the kernel drops them when the process ends, however it ends.

use std::fs::File;
use std::io;

use rustix::fs::FlockOperation;

/// Which kind of lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// Many holders, no exclusive one.
    Shared,
    /// One holder.
    Exclusive,
}

/// A lock on an open file, held until dropped. It belongs to the open file description: a second
/// [`FileLock`] of the same process on the same file excludes like one of another process.
#[derive(Debug)]
pub struct FileLock {
    file: File,
}

impl FileLock {
    /// Waits for the lock. A signal ends the wait with [`io::ErrorKind::Interrupted`]: the caller knows whether to go on.
    pub fn wait(file: File, kind: LockKind) -> io::Result<Self> {
        let operation = match kind {
            LockKind::Shared => FlockOperation::LockShared,
            LockKind::Exclusive => FlockOperation::LockExclusive,
        };
        rustix::fs::flock(&file, operation)?;
        Ok(Self { file })
    }

    /// Takes the lock, or gives the file back when another holds it.
    pub fn attempt(file: File, kind: LockKind) -> io::Result<Result<Self, File>> {
        let operation = match kind {
            LockKind::Shared => FlockOperation::NonBlockingLockShared,
            LockKind::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        match rustix::fs::flock(&file, operation) {
            Ok(()) => Ok(Ok(Self { file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(Err(file)),
            Err(error) => Err(error.into()),
        }
    }

    /// The locked file.
    pub fn file(&self) -> &File {
        &self.file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exclusive_lock_keeps_others_out_until_it_is_dropped() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let open = || path.reopen().unwrap();
        let held = FileLock::attempt(open(), LockKind::Exclusive).unwrap().unwrap();
        assert!(FileLock::attempt(open(), LockKind::Shared).unwrap().is_err());
        drop(held);
        let _one = FileLock::wait(open(), LockKind::Shared).unwrap();
        let _two = FileLock::attempt(open(), LockKind::Shared).unwrap().unwrap();
        assert!(FileLock::attempt(open(), LockKind::Exclusive).unwrap().is_err());
    }
}
