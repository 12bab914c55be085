//! Who may do what at the same time.
//!
//! `ferry/lock` is held shared by whoever relies on layers staying where they are (loads, saves, commits) and
//! exclusively by whoever removes some. `ferry/commit.lock` is held exclusively, and for a short time, by whoever
//! changes metadata. Always in this order. `ferry/staging/<transaction>/lock` is held by the process that the
//! transaction belongs to: when it is free, that process is dead.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::error::StoreError;
use super::guard::DaemonsOut;
use super::{Store, journal};
use crate::base::{AtPath, Class, Ctx, Fault};
use crate::sys::lock::{FileLock, LockKind};

/// The right to change metadata, for a short time.
#[derive(Debug)]
pub(super) struct Writing {
    _commit: FileLock,
    _out: DaemonsOut,
}

/// The right to remove layers: nobody else reads or loads.
#[derive(Debug)]
pub(super) struct Removing {
    _all: FileLock,
    _writing: Writing,
}

/// The knowledge that layers stay; nothing where the store cannot be locked (a read-only medium).
#[derive(Debug)]
pub struct Using {
    _lock: Option<FileLock>,
}

impl Store {
    /// Takes the right to change metadata; first finishes or removes what dead processes left.
    pub(super) fn writer(&self, ctx: &Ctx) -> Result<Writing, StoreError> {
        let writing = self.quiet(ctx)?;
        journal::recover(&self.layout)?;
        Ok(writing)
    }

    /// Takes the right to change metadata, and leaves everything as it is.
    pub(super) fn quiet(&self, ctx: &Ctx) -> Result<Writing, StoreError> {
        let out = self.prepare()?;
        let commit = self.wait(&self.layout.commit_lock(), LockKind::Exclusive, ctx)?;
        Ok(Writing { _commit: commit, _out: out })
    }

    /// Takes the right to remove layers.
    pub(super) fn remover(&self, ctx: &Ctx) -> Result<Removing, StoreError> {
        let removing = self.remover_quiet(ctx)?;
        journal::recover(&self.layout)?;
        Ok(removing)
    }

    /// Takes the right to remove layers, and leaves everything as it is.
    pub(super) fn remover_quiet(&self, ctx: &Ctx) -> Result<Removing, StoreError> {
        let _out = self.prepare()?;
        let all = self.wait(&self.layout.use_lock(), LockKind::Exclusive, ctx)?;
        Ok(Removing { _all: all, _writing: self.quiet(ctx)? })
    }

    /// Makes sure that layers stay while the result lives. A data-root of Docker's gets its `ferry/` folder here when
    /// it can be written and no daemon runs on it; else nothing is locked.
    pub fn using(&self, ctx: &Ctx) -> Result<Using, StoreError> {
        if self.layout.root().symlink_metadata().is_err() {
            return Ok(Using { _lock: None });
        }
        match self.prepare().and_then(|_out| self.wait(&self.layout.use_lock(), LockKind::Shared, ctx)) {
            Ok(lock) => Ok(Using { _lock: Some(lock) }),
            Err(error) if cannot_write(&error) => Ok(Using { _lock: None }),
            Err(error) => Err(error),
        }
    }

    /// Finishes committed work of dead processes when that can be; readers then see all of it or nothing.
    pub(super) fn recover_if_possible(&self) -> Result<(), StoreError> {
        if !journal::any_begun(&self.layout)? {
            return Ok(());
        }
        match self.quiet(&Ctx::silent()).and_then(|_writing| journal::finish_begun(&self.layout)) {
            Ok(()) => Ok(()),
            // What is in place is whole without the rest; writers refuse, and fsck says what is damaged.
            Err(error) if cannot_write(&error) || matches!(error, StoreError::Damaged { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn wait(&self, path: &Path, kind: LockKind, ctx: &Ctx) -> Result<FileLock, StoreError> {
        let mut file = match FileLock::attempt(open(path)?, kind).at("lock", path)? {
            Ok(lock) => return Ok(lock),
            Err(file) => file,
        };
        tracing::info!(path = %path.display(), "waiting for another process");
        loop {
            ctx.check()?;
            match FileLock::wait(file, kind) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => file = open(path)?,
                result => return Ok(result.at("lock", path)?),
            }
        }
    }
}

fn open(path: &Path) -> Result<File, StoreError> {
    Ok(OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .at("open", path)?)
}

/// Whether an error means that the store can be read but not changed by this process, now.
pub(super) fn cannot_write(error: &StoreError) -> bool {
    match error {
        StoreError::DaemonRuns { .. } => true,
        StoreError::Path(path) => {
            path.class() == Class::System
                && matches!(path.source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
        }
        _ => false,
    }
}
