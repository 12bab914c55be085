//! Owner, mode, extended attributes and times of what a layer makes.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Gid, Mode, Uid, XattrFlags};
use rustix::io::Errno;

use super::super::tar::Entry;
use super::ApplyOptions;
use crate::base::PathError;
use crate::sys::dir::{Dir, Time};

/// What is set on a file once it is made.
#[derive(Debug, Clone)]
pub(super) struct Attributes {
    pub mode: u32,
    /// `None`: the file belongs to whoever makes it, which is right already or cannot be changed.
    pub owner: Option<(u32, u32)>,
    pub mtime: Time,
    pub xattrs: Vec<(CString, Vec<u8>)>,
    /// In a user namespace some attributes cannot be set at all.
    pub in_namespace: bool,
}

/// Attributes by which overlayfs itself works: from a layer they could make one show other layers' files.
fn is_overlays_own(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

/// Whether a refused attribute is let go with a warning, as docker does: the file system or the namespace cannot hold
/// it, and the tar-split still has it. ext4 says ENOSPC of an attribute that is too large for its block.
fn is_bearable(name: &[u8], error: Errno, in_namespace: bool) -> bool {
    match error {
        Errno::OPNOTSUPP => true,
        Errno::PERM => in_namespace || !name.starts_with(b"security."),
        Errno::TOOBIG | Errno::NOSPC | Errno::INVAL | Errno::RANGE => name.starts_with(b"user."),
        _ => false,
    }
}

impl Attributes {
    pub fn of(entry: &mut Entry, options: &ApplyOptions, own: (u32, u32), set_gid_seen: bool) -> Self {
        let owner = (entry.uid, entry.gid);
        let set = !options.single_id && (set_gid_seen || owner != own);
        let xattrs = std::mem::take(&mut entry.xattrs)
            .into_iter()
            .filter(|(name, _)| !is_overlays_own(name))
            .filter_map(|(name, value)| Some((CString::new(name).ok()?, value)))
            .collect();
        let mtime = Time { seconds: entry.mtime.seconds, nanoseconds: entry.mtime.nanoseconds };
        Self { mode: entry.mode, owner: set.then_some(owner), mtime, xattrs, in_namespace: options.userxattr }
    }

    /// The permission bits to make a file with: what [`Attributes::set`] need not change is one journalled change less.
    pub fn mode_at_first(&self) -> u32 {
        self.mode & 0o777
    }

    /// Sets them on a file. The owner first, which clears set-ID bits and capabilities; the times last.
    pub fn set(&self, file: &File) -> io::Result<()> {
        if let Some((uid, gid)) = self.owner {
            rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        // The umask, or an access list that the directory passes on, may have taken bits away.
        if rustix::fs::fstat(file)?.st_mode & 0o7777 != self.mode {
            rustix::fs::fchmod(file, Mode::from_raw_mode(self.mode))?;
        }
        for (name, value) in &self.xattrs {
            match rustix::fs::fsetxattr(file, &**name, value, XattrFlags::empty()) {
                Err(error) if !is_bearable(name.to_bytes(), error, self.in_namespace) => return Err(error.into()),
                _ => {}
            }
        }
        let time = rustix::fs::Timespec { tv_sec: self.mtime.seconds, tv_nsec: self.mtime.nanoseconds.into() };
        rustix::fs::futimens(file, &rustix::fs::Timestamps { last_access: time, last_modification: time })?;
        Ok(())
    }

    /// Sets owner and extended attributes on what is not a regular file.
    pub fn set_by_name(&self, dir: &Dir, name: &OsStr) -> Result<(), PathError> {
        if let Some((uid, gid)) = self.owner {
            dir.chown(name, uid, gid)?;
        }
        for (attribute, value) in &self.xattrs {
            if let Err(error) = dir.set_xattr(Path::new(name), OsStr::from_bytes(attribute.to_bytes()), value) {
                let errno = error.source.raw_os_error().map(Errno::from_raw_os_error);
                if !errno.is_some_and(|errno| is_bearable(attribute.to_bytes(), errno, self.in_namespace)) {
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}
