//! File operations confined to a directory: whatever a path from an image or an archive says, nothing outside is
//! touched. Paths are resolved by the kernel with the directory as their root (`openat2`, Linux 5.6): `/x`, `../x` and
//! symbolic links lead to places inside.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::base::{AtPath, PathError};

/// Resolution inside a root, never through `/proc/*/fd` and the like.
const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// What is at a path, without following a link there.
pub type Metadata = Stat;

/// An open directory that is the root for every path given to it.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// Its name: one component, never `.` or `..`.
    pub name: OsString,
    /// Its kind as the file system told; `None` where it does not.
    pub kind: Option<Kind>,
}

/// The kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl Kind {
    fn of(kind: FileType) -> Option<Self> {
        Some(match kind {
            FileType::RegularFile => Self::Regular,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::Unknown => return None,
        })
    }

    /// The kind in what [`Dir::stat`] gave.
    pub fn in_metadata(metadata: &Metadata) -> Option<Self> {
        Self::of(FileType::from_raw_mode(metadata.st_mode))
    }
}

/// When a file was last changed: seconds and nanoseconds since 1970, the latter always positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds; negative before 1970.
    pub seconds: i64,
    /// Nanoseconds, below 10^9.
    pub nanoseconds: u32,
}

impl Time {
    fn both(self) -> Timestamps {
        let time = Timespec { tv_sec: self.seconds, tv_nsec: i64::from(self.nanoseconds) as _ };
        Timestamps { last_access: time, last_modification: time }
    }
}

/// The directory a path lies in and its last component.
fn split(rel: &Path) -> io::Result<(&Path, &OsStr)> {
    // `file_name` is `None` for the root, for `..` and for nothing: there is no name to work on.
    let name = rel.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Ok((rel.parent().unwrap_or(Path::new("")), name))
}

/// A link or a rename under way elsewhere makes the kernel give up; it asks to be called again.
fn patiently<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    for _ in 0..64 {
        match call() {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
    Ok(call()?)
}

/// The parent of a path: this directory itself or another one opened for the occasion.
enum Parent<'a> {
    Own(BorrowedFd<'a>),
    Other(OwnedFd),
}

impl AsFd for Parent<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Own(fd) => *fd,
            Self::Other(fd) => fd.as_fd(),
        }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dir {
    /// Opens a directory of the host; `path` is trusted.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, PathError> {
        let path = path.as_ref();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, path, flags, Mode::empty()).at("open", path)?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Where it was opened, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Another handle on the same directory.
    pub fn try_clone(&self) -> Result<Self, PathError> {
        Ok(Self { fd: self.fd.try_clone().at("open", &self.path)?, path: self.path.clone() })
    }

    /// The host's path of something in it, for messages.
    pub fn full(&self, rel: &Path) -> PathBuf {
        self.path.join(rel.strip_prefix("/").unwrap_or(rel))
    }

    fn resolve(&self, rel: &Path, flags: OFlags, mode: Mode, resolve: ResolveFlags) -> io::Result<OwnedFd> {
        let rel = if rel.as_os_str().is_empty() { Path::new(".") } else { rel };
        patiently(|| rustix::fs::openat2(&self.fd, rel, flags | OFlags::CLOEXEC, mode, resolve))
    }

    fn parent<'a>(&'a self, rel: &'a Path) -> io::Result<(Parent<'a>, &'a OsStr)> {
        let (parent, name) = split(rel)?;
        if parent.as_os_str().is_empty() {
            return Ok((Parent::Own(self.fd.as_fd()), name));
        }
        let fd = self.resolve(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty(), INSIDE)?;
        Ok((Parent::Other(fd), name))
    }

    fn on<T>(
        &self,
        action: &'static str,
        rel: &Path,
        work: impl FnOnce(BorrowedFd<'_>, &OsStr) -> io::Result<T>,
    ) -> Result<T, PathError> {
        let result = self.parent(rel).and_then(|(parent, name)| work(parent.as_fd(), name));
        result.map_err(|source| PathError { action, path: self.full(rel), source })
    }

    /// Opens a directory below. Symbolic links in the path are followed inside.
    pub fn open_dir(&self, rel: impl AsRef<Path>) -> Result<Self, PathError> {
        let rel = rel.as_ref();
        let fd = self.resolve(rel, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty(), INSIDE);
        Ok(Self { fd: fd.at("open", self.full(rel))?, path: self.full(rel) })
    }

    /// Opens a directory below whose path has no symbolic link in it.
    pub fn open_dir_no_links(&self, rel: impl AsRef<Path>) -> Result<Self, PathError> {
        let rel = rel.as_ref();
        let resolve = INSIDE | ResolveFlags::NO_SYMLINKS;
        let fd = self.resolve(rel, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty(), resolve);
        Ok(Self { fd: fd.at("open", self.full(rel))?, path: self.full(rel) })
    }

    /// Opens a regular file for reading. Anything else at the path is [`io::ErrorKind::InvalidInput`], a symbolic link
    /// at its end too; a fifo does not block. The time of last access stays what it is where the kernel lets it.
    pub fn open_file(&self, rel: impl AsRef<Path>) -> Result<File, PathError> {
        let rel = rel.as_ref();
        let open = || {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
            // Of others' files it may not be asked for.
            let quietly = self.resolve(rel, flags | OFlags::NOATIME, Mode::empty(), INSIDE);
            let file = File::from(match quietly {
                Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
                    self.resolve(rel, flags, Mode::empty(), INSIDE)?
                }
                other => other?,
            });
            if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::from(io::ErrorKind::InvalidInput)) }
        };
        open().at("read", self.full(rel))
    }

    /// [`Dir::open_file`] where somebody may put another file in the place of this one meanwhile: nothing but a regular
    /// file is opened even for a moment, since a device may do something when it is. Needs `/proc`.
    pub fn open_file_of_others(&self, rel: impl AsRef<Path>) -> Result<File, PathError> {
        let rel = rel.as_ref();
        let open = || {
            let node = self.node(rel)?;
            if Kind::in_metadata(&rustix::fs::fstat(&node.fd)?) != Some(Kind::Regular) {
                return Err(io::Error::from(io::ErrorKind::InvalidInput));
            }
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            Ok(File::from(match rustix::fs::open(&node.path, flags | OFlags::NOATIME, Mode::empty()) {
                Err(Errno::PERM) => rustix::fs::open(&node.path, flags, Mode::empty())?,
                other => other?,
            }))
        };
        open().at("read", self.full(rel))
    }

    /// Creates a file for writing, which must not exist. `mode` are its permission bits, less the umask.
    pub fn create_file(&self, rel: impl AsRef<Path>, mode: u32) -> Result<File, PathError> {
        self.on("create", rel.as_ref(), |parent, name| {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            Ok(File::from(rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(mode & 0o7777))?))
        })
    }

    /// Makes a directory, which must not exist.
    pub fn mkdir(&self, rel: impl AsRef<Path>, mode: u32) -> Result<(), PathError> {
        self.on("create", rel.as_ref(), |parent, name| {
            Ok(rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(mode & 0o7777))?)
        })
    }

    /// Makes a directory and those above it that are missing; existing ones are left as they are.
    pub fn mkdir_all(&self, rel: impl AsRef<Path>, mode: u32) -> Result<(), PathError> {
        let rel = rel.as_ref();
        let mut so_far = PathBuf::new();
        for component in rel.components() {
            so_far.push(component);
            if so_far.file_name().is_none() {
                continue;
            }
            match self.mkdir(&so_far, mode) {
                Err(error) if error.source.kind() == io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Makes a symbolic link; its target is stored, not looked at.
    pub fn symlink(&self, target: impl AsRef<Path>, rel: impl AsRef<Path>) -> Result<(), PathError> {
        self.on("create", rel.as_ref(), |parent, name| Ok(rustix::fs::symlinkat(target.as_ref(), parent, name)?))
    }

    /// Gives what is at `existing`, a symbolic link itself if it is one, the further name `rel`.
    pub fn hard_link(&self, existing: impl AsRef<Path>, rel: impl AsRef<Path>) -> Result<(), PathError> {
        let existing = existing.as_ref();
        self.on("link", rel.as_ref(), |parent, name| {
            let (old, old_name) = self.parent(existing)?;
            Ok(rustix::fs::linkat(old.as_fd(), old_name, parent, name, AtFlags::empty())?)
        })
    }

    /// Makes a fifo, socket or device; `device` is 0 for the former.
    pub fn mknod(&self, rel: impl AsRef<Path>, kind: Kind, mode: u32, device: u64) -> Result<(), PathError> {
        self.on("create", rel.as_ref(), |parent, name| {
            let kind = match kind {
                Kind::CharDevice => FileType::CharacterDevice,
                Kind::BlockDevice => FileType::BlockDevice,
                Kind::Fifo => FileType::Fifo,
                Kind::Socket => FileType::Socket,
                Kind::Regular | Kind::Directory | Kind::Symlink => return Err(io::ErrorKind::InvalidInput.into()),
            };
            Ok(rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(mode & 0o7777), device)?)
        })
    }

    /// Sets owner and group; a symbolic link's own.
    pub fn chown(&self, rel: impl AsRef<Path>, uid: u32, gid: u32) -> Result<(), PathError> {
        self.on("change the owner of", rel.as_ref(), |parent, name| {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            Ok(rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
        })
    }

    /// Sets the permission bits of anything that is not a symbolic link.
    pub fn chmod(&self, rel: impl AsRef<Path>, mode: u32) -> Result<(), PathError> {
        self.on("change the mode of", rel.as_ref(), |parent, name| {
            if FileType::from_raw_mode(rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode)
                == FileType::Symlink
            {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            Ok(rustix::fs::chmodat(parent, name, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())?)
        })
    }

    /// Sets the times of last access and change; a symbolic link's own.
    pub fn set_times(&self, rel: impl AsRef<Path>, time: Time) -> Result<(), PathError> {
        self.on("change the times of", rel.as_ref(), |parent, name| {
            Ok(rustix::fs::utimensat(parent, name, &time.both(), AtFlags::SYMLINK_NOFOLLOW)?)
        })
    }

    /// What is at the path; a symbolic link itself.
    pub fn stat(&self, rel: impl AsRef<Path>) -> Result<Metadata, PathError> {
        let rel = rel.as_ref();
        if rel.as_os_str().is_empty() || rel == Path::new(".") || rel == Path::new("/") {
            return rustix::fs::fstat(&self.fd).at("read", &self.path);
        }
        self.on("read", rel, |parent, name| Ok(rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?))
    }

    /// Whether something is there, a dangling link included.
    pub fn exists(&self, rel: impl AsRef<Path>) -> Result<bool, PathError> {
        match self.stat(rel) {
            Ok(_) => Ok(true),
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Where a symbolic link points.
    pub fn read_link(&self, rel: impl AsRef<Path>) -> Result<PathBuf, PathError> {
        self.on("read", rel.as_ref(), |parent, name| {
            let target = rustix::fs::readlinkat(parent, name, Vec::new())?;
            Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
        })
    }

    /// Renames inside the directory, replacing what rename(2) replaces.
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<(), PathError> {
        let from = from.as_ref();
        self.on("rename to", to.as_ref(), |parent, name| {
            let (old, old_name) = self.parent(from)?;
            Ok(rustix::fs::renameat(old.as_fd(), old_name, parent, name)?)
        })
    }

    /// Removes what is at the path, a directory with all it holds. No link is followed. Nothing there is no error.
    pub fn remove(&self, rel: impl AsRef<Path>) -> Result<(), PathError> {
        self.on("remove", rel.as_ref(), remove_at)
    }

    /// The entries, sorted by name.
    pub fn entries(&self) -> Result<Vec<DirEntry>, PathError> {
        list(self.fd.as_fd()).at("read", &self.path)
    }

    /// An extended attribute of what is at the path, a symbolic link's own; `None` when it has no such attribute, or
    /// the file system has none at all. Needs `/proc`.
    pub fn xattr(&self, rel: impl AsRef<Path>, name: &OsStr) -> Result<Option<Vec<u8>>, PathError> {
        let rel = rel.as_ref();
        let read = || -> io::Result<Option<Vec<u8>>> {
            let node = self.node(rel)?;
            loop {
                let size = match rustix::fs::getxattr_query(&node.path, name) {
                    Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
                    other => other?,
                };
                let mut value = vec![0; size];
                match rustix::fs::getxattr(&node.path, name, &mut value[..]) {
                    Ok(size) => {
                        value.truncate(size);
                        return Ok(Some(value));
                    }
                    Err(Errno::NODATA) => return Ok(None),
                    // It grew in between.
                    Err(Errno::RANGE) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        };
        read().at("read attributes of", self.full(rel))
    }

    /// The names of its extended attributes, sorted. Needs `/proc`.
    pub fn xattr_names(&self, rel: impl AsRef<Path>) -> Result<Vec<OsString>, PathError> {
        let rel = rel.as_ref();
        let read = || -> io::Result<Vec<OsString>> {
            let node = self.node(rel)?;
            // The kernel's own limit on a list (XATTR_LIST_MAX).
            let mut names = vec![0_u8; 65_536];
            let size = match rustix::fs::listxattr(&node.path, &mut names[..]) {
                Err(Errno::OPNOTSUPP) => 0,
                other => other?,
            };
            let names = names[..size].split(|byte| *byte == 0).filter(|name| !name.is_empty());
            let mut names: Vec<OsString> = names.map(|name| OsStr::from_bytes(name).to_owned()).collect();
            names.sort();
            Ok(names)
        };
        read().at("read attributes of", self.full(rel))
    }

    /// Sets an extended attribute; a symbolic link's own. Needs `/proc`.
    pub fn set_xattr(&self, rel: impl AsRef<Path>, name: &OsStr, value: &[u8]) -> Result<(), PathError> {
        let rel = rel.as_ref();
        let set =
            || -> io::Result<()> { Ok(rustix::fs::setxattr(&self.node(rel)?.path, name, value, XattrFlags::empty())?) };
        set().at("set an attribute of", self.full(rel))
    }

    /// A name of the very object at a path, for system calls that take no descriptor.
    fn node(&self, rel: &Path) -> io::Result<Node> {
        let fd = self.resolve(rel, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty(), INSIDE)?;
        Ok(Node { path: format!("/proc/self/fd/{}", fd.as_raw_fd()).into(), fd })
    }
}

struct Node {
    path: PathBuf,
    fd: OwnedFd,
}

/// The entries of an open directory, sorted by name. Its read position is its own: the descriptor's is left alone.
fn list(dir: BorrowedFd<'_>) -> io::Result<Vec<DirEntry>> {
    let mut entries = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            let name = OsStr::from_bytes(name).to_owned();
            entries.push(DirEntry { name, kind: Kind::of(entry.file_type()) });
        }
    }
    entries.sort();
    Ok(entries)
}

/// Removes one name, with all below it, without recursion on the stack: depth is the attacker's choice.
fn remove_at(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let open = |parent: BorrowedFd<'_>, name: &OsStr| -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            Err(Errno::ACCESS) => {
                // An owner may always give himself the right.
                rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
                Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
            }
            other => Ok(other?),
        }
    };
    // Deep trees would use up the descriptors: a directory that lies deep is moved up first and removed from there.
    let top = open(parent, name)?;
    let mut pending: Vec<OsString> = list(top.as_fd())?.into_iter().map(|entry| entry.name).collect();
    let mut moved = 0_u64;
    while let Some(child) = pending.pop() {
        match rustix::fs::unlinkat(&top, &child, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR) => {}
            Err(Errno::ACCESS | Errno::PERM) => {
                rustix::fs::fchmod(&top, Mode::RWXU)?;
                match rustix::fs::unlinkat(&top, &child, AtFlags::empty()) {
                    Err(Errno::ISDIR) => {}
                    other => {
                        other?;
                        continue;
                    }
                }
            }
            Err(error) => return Err(error.into()),
        }
        let dir = open(top.as_fd(), &child)?;
        for entry in list(dir.as_fd())? {
            let unlinked = match rustix::fs::unlinkat(&dir, &entry.name, AtFlags::empty()) {
                Err(Errno::ACCESS | Errno::PERM) => {
                    rustix::fs::fchmod(&dir, Mode::RWXU)?;
                    rustix::fs::unlinkat(&dir, &entry.name, AtFlags::empty())
                }
                other => other,
            };
            match unlinked {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR) => {
                    match rustix::fs::unlinkat(&dir, &entry.name, AtFlags::REMOVEDIR) {
                        Ok(()) | Err(Errno::NOENT) => continue,
                        Err(Errno::NOTEMPTY) => {}
                        Err(error) => return Err(error.into()),
                    }
                    loop {
                        moved += 1;
                        let name = OsString::from(format!(".ferry-removing-{moved}"));
                        let flags = rustix::fs::RenameFlags::NOREPLACE;
                        match rustix::fs::renameat_with(&dir, &entry.name, &top, &name, flags) {
                            Err(Errno::EXIST) => {}
                            other => {
                                other?;
                                pending.push(name);
                                break;
                            }
                        }
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        drop(dir);
        rustix::fs::unlinkat(&top, &child, AtFlags::REMOVEDIR)?;
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}
