//! Mount calls that rustix lacks, and the confined lookup of mount points.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2};
use rustix::io::Errno;

/// Attributes for [`set_attributes`], the kernel's `MOUNT_ATTR_*`.
pub mod attr {
    #![allow(missing_docs)] // the kernel's names
    pub const RDONLY: u64 = 0x1;
    pub const NOSUID: u64 = 0x2;
    pub const NODEV: u64 = 0x4;
    pub const NOEXEC: u64 = 0x8;
    pub const ATIME: u64 = 0x70;
    pub const RELATIME: u64 = 0;
    pub const NOATIME: u64 = 0x10;
    pub const STRICTATIME: u64 = 0x20;
    pub const NODIRATIME: u64 = 0x80;
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// Changes attributes and propagation (`MS_SHARED` …, 0 = as it is) of the mount that `mount` is the root of, and with
/// `recursive` of all mounts below. `mount_setattr(2)`, Linux 5.12.
pub fn set_attributes(mount: impl AsFd, recursive: bool, set: u64, clear: u64, propagation: u64) -> io::Result<()> {
    const SYS_MOUNT_SETATTR: libc::c_long = 442;
    let attributes: [u64; 4] = [set, clear, propagation, 0];
    let flags = libc::AT_EMPTY_PATH | if recursive { 0x8000 } else { 0 };
    let fd = mount.as_fd().as_raw_fd();
    // SAFETY: the structure is mount_attr of the size given, the path is empty.
    let done = unsafe {
        libc::syscall(SYS_MOUNT_SETATTR, fd, c"".as_ptr(), flags, attributes.as_ptr(), size_of_val(&attributes))
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Opens `path` below `root` as if `root` were `/`: no component, symlink or `..` leads out of it.
pub fn open_in_root(root: impl AsFd, path: impl AsRef<Path>, flags: OFlags) -> io::Result<OwnedFd> {
    let path = path.as_ref();
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // EAGAIN: something was renamed meanwhile and the kernel cannot tell whether the lookup stayed inside.
    for _ in 0..128 {
        match openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            done => return Ok(done?),
        }
    }
    Err(Errno::AGAIN.into())
}

/// What a mount point is to be, where there is none yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A directory.
    Directory,
    /// An empty file.
    File,
}

/// Opens (`O_PATH`) the mount point `path` below `root`, and makes it and the directories above it where they are
/// missing. Symlinks in the image are followed inside `root` only.
pub fn mount_point(root: impl AsFd, path: &Path, target: Target) -> io::Result<OwnedFd> {
    let path_flags = OFlags::PATH;
    match open_in_root(&root, path, path_flags) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => {
            let found = found?;
            let is_dir = FileType::from_raw_mode(fstat(&found)?.st_mode) == FileType::Directory;
            return match (is_dir, target) {
                (true, Target::Directory) | (false, Target::File) => Ok(found),
                (false, Target::Directory) => Err(Errno::NOTDIR.into()),
                (true, Target::File) => Err(Errno::ISDIR.into()),
            };
        }
    }
    // Each step is looked up from the root again, so that symlinks on the way count as they would inside.
    let mut reached = std::path::PathBuf::new();
    let mut parts = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    let mut next = parts.next();
    while let Some(part) = next {
        next = parts.next();
        let last = next.is_none();
        let parent = open_in_root(&root, &reached, OFlags::PATH | OFlags::DIRECTORY)?;
        reached.push(part);
        match open_in_root(&root, &reached, path_flags) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => {
                found?;
                continue;
            }
        }
        let Component::Normal(name) = part else { return Err(Errno::NOENT.into()) };
        let made = if last && target == Target::File {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::WRONLY;
            openat(&parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        } else {
            mkdirat(&parent, name, Mode::from_raw_mode(0o755))
        };
        match made {
            // A dangling symlink: nothing may be made where it points, which could be anywhere.
            Err(Errno::EXIST) => {
                open_in_root(&root, &reached, path_flags)?;
            }
            made => made?,
        }
    }
    open_in_root(&root, path, path_flags)
}

/// Opens a directory of the host by path.
pub fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}
