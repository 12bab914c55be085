//! A container's mounts: each is made detached, given its attributes, and only then attached to a mount point that was
//! looked up inside the root file system by descriptor. Nothing an image holds (symlinks above all) leads outside.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Mount;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::runtime::error::{RuntimeError, While};
use crate::sys::mount::{Target, attr, mount_point, open_in_root, set_attributes};

/// What a mount's options mean.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    set: u64,
    clear: u64,
    bind: bool,
    recursive: bool,
    propagation: Option<(u64, bool)>,
    copy_up: bool,
    data: Vec<(String, Option<String>)>,
}

fn parse(options: &[String]) -> Options {
    let mut parsed = Options::default();
    for option in options {
        let flag = |parsed: &mut Options, bit: u64, on: bool| {
            let (to, from) =
                if on { (&mut parsed.set, &mut parsed.clear) } else { (&mut parsed.clear, &mut parsed.set) };
            *to |= bit;
            *from &= !bit;
        };
        match option.as_str() {
            "ro" | "rro" => flag(&mut parsed, attr::RDONLY, true),
            "rw" | "rrw" => flag(&mut parsed, attr::RDONLY, false),
            "nosuid" | "rnosuid" => flag(&mut parsed, attr::NOSUID, true),
            "suid" => flag(&mut parsed, attr::NOSUID, false),
            "nodev" | "rnodev" => flag(&mut parsed, attr::NODEV, true),
            "dev" => flag(&mut parsed, attr::NODEV, false),
            "noexec" | "rnoexec" => flag(&mut parsed, attr::NOEXEC, true),
            "exec" => flag(&mut parsed, attr::NOEXEC, false),
            "nosymfollow" => flag(&mut parsed, attr::NOSYMFOLLOW, true),
            "nodiratime" => flag(&mut parsed, attr::NODIRATIME, true),
            // The access time settings are one field: it is cleared before it is set.
            "relatime" => parsed.clear |= attr::ATIME,
            "noatime" => (parsed.clear, parsed.set) = (parsed.clear | attr::ATIME, parsed.set | attr::NOATIME),
            "strictatime" => (parsed.clear, parsed.set) = (parsed.clear | attr::ATIME, parsed.set | attr::STRICTATIME),
            "bind" => parsed.bind = true,
            "rbind" => (parsed.bind, parsed.recursive) = (true, true),
            "shared" => parsed.propagation = Some((libc::MS_SHARED, false)),
            "rshared" => parsed.propagation = Some((libc::MS_SHARED, true)),
            "slave" => parsed.propagation = Some((libc::MS_SLAVE, false)),
            "rslave" => parsed.propagation = Some((libc::MS_SLAVE, true)),
            "private" => parsed.propagation = Some((libc::MS_PRIVATE, false)),
            "rprivate" => parsed.propagation = Some((libc::MS_PRIVATE, true)),
            "unbindable" => parsed.propagation = Some((libc::MS_UNBINDABLE, false)),
            "runbindable" => parsed.propagation = Some((libc::MS_UNBINDABLE, true)),
            "tmpcopyup" => parsed.copy_up = true,
            "defaults" | "async" | "diratime" | "" => {}
            other => parsed.data.push(match other.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (other.to_owned(), None),
            }),
        }
    }
    parsed
}

/// Opens one of the kernel's own directories in the root, which must be one and not a symlink: an image that makes
/// `/proc` a symlink would otherwise choose where the masks go.
fn kernel_mount_point(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    drop(mount_point(&root, path, Target::Directory)?);
    let relative = path.strip_prefix("/").unwrap_or(path);
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(openat2(root, relative, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

/// Attaches a detached mount to an open mount point.
fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", target, "", flags)?)
}

/// A detached mount of a new file system.
fn new_filesystem(kind: &str, source: &str, data: &[(String, Option<String>)]) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", source)?;
    for (key, value) in data {
        match value {
            Some(value) => fsconfig_set_string(&context, key.as_str(), value.as_str())?,
            None => fsconfig_set_flag(&context, key.as_str())?,
        }
    }
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

/// A detached copy of what is mounted at an open place.
fn clone_tree(of: impl AsFd, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(of, "", flags)?)
}

fn is_dir(fd: impl AsFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(fstat(fd)?.st_mode) == FileType::Directory)
}

/// A detached copy of the memory (`/dev/shm`) in a mount namespace: nothing else may be there.
pub fn memory_of(namespace: File) -> io::Result<OwnedFd> {
    // A thread, which has a root of its own: a mount can be copied only from where it is.
    let look = move || {
        crate::sys::process::unshare(libc::CLONE_FS)?;
        crate::sys::process::setns(&namespace, libc::CLONE_NEWNS)?;
        let memory = openat(CWD, "/dev/shm", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        if rustix::fs::fstatfs(&memory)?.f_type != libc::TMPFS_MAGIC {
            return Err(io::Error::other("/dev/shm is not memory"));
        }
        clone_tree(&memory, false)
    };
    let looked = std::thread::Builder::new().name("memory".into()).spawn(look)?.join();
    looked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Attaches a detached mount at a path of this process's own mount namespace.
pub fn put(tree: impl AsFd, path: &Path) -> io::Result<()> {
    attach(tree, openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

fn is_proc(fd: impl AsFd) -> io::Result<bool> {
    Ok(rustix::fs::fstatfs(fd)?.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

/// Whether a path of a container is that of a file in `/proc` that runc lets be replaced (`libcontainer/rootfs_linux.go`,
/// `checkProcMount`).
pub fn is_replaceable(path: &Path) -> bool {
    const FILES: [&str; 10] = [
        "cpuinfo",
        "diskstats",
        "loadavg",
        "meminfo",
        "net/dev",
        "slabinfo",
        "stat",
        "swaps",
        "sys/kernel/ns_last_pid",
        "uptime",
    ];
    path.strip_prefix("/proc").is_ok_and(|inside| FILES.iter().any(|file| inside == Path::new(file)))
}

/// Refuses to hide what the masks and the runtime itself rely on, whatever name it has in the image.
fn not_over_proc(at: impl AsFd, destination: &Path) -> Result<(), RuntimeError> {
    if is_replaceable(destination) || !is_proc(at).trying("look at a mount point in the container")? {
        return Ok(());
    }
    let shown = destination.display().to_string();
    Err(RuntimeError::usage(format!("{shown:?} cannot be mounted over: it is inside /proc")))
}

/// Makes one mount of the document. `root` is the root file system; sources are paths of the host.
pub fn mount(root: impl AsFd, mount: &Mount) -> Result<(), RuntimeError> {
    match mount_in_order(root, mount)? {
        Some(tmpfs) => make_read_only(&tmpfs),
        None => Ok(()),
    }
}

/// Makes a mount read-only.
pub fn make_read_only(mount: impl AsFd) -> Result<(), RuntimeError> {
    set_attributes(mount, false, attr::RDONLY, 0, 0).trying("make a mount of the container read-only")
}

/// The same as one of many. Gives a tmpfs that is to be made read-only when all are there, as by runc: there may be mount
/// points to be made in it.
pub fn mount_in_order(root: impl AsFd, mount: &Mount) -> Result<Option<OwnedFd>, RuntimeError> {
    let destination = mount.destination();
    let mut options = parse(mount.options().as_deref().unwrap_or_default());
    let kind = mount.typ().as_deref().unwrap_or(if options.bind { "bind" } else { "" });
    let source = mount.source().as_deref().unwrap_or(Path::new(kind));
    let what = || format!("mount {} at {} in the container", source.display(), destination.display());
    if options.bind || kind == "bind" {
        let from = openat(CWD, source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).trying(what())?;
        let tree = clone_tree(&from, options.recursive).trying(what())?;
        let target = if is_dir(&from).trying(what())? { Target::Directory } else { Target::File };
        if options.set | options.clear != 0 {
            set_attributes(&tree, options.recursive, options.set, options.clear & !options.set | atime(&options), 0)
                .trying(what())?;
        }
        let of_proc = is_proc(&from).trying(what())?;
        let at = match of_proc && destination == Path::new("/proc") {
            true => kernel_mount_point(&root, destination).trying(what())?,
            false => mount_point(&root, destination, target).trying(what())?,
        };
        if !of_proc {
            not_over_proc(&at, destination)?;
        }
        attach(&tree, &at).trying(what())?;
        return propagate(&tree, &options).trying(what()).map(|()| None);
    }
    if kind == "cgroup" {
        return cgroup(&root, destination, &options).map(|()| None);
    }
    // As runc: what hides a directory has its mode.
    let hidden = open_in_root(&root, destination, OFlags::PATH).ok().filter(|_| kind == "tmpfs");
    if let Some(hidden) = hidden.filter(|_| !options.data.iter().any(|(key, _)| key == "mode")) {
        let mode = fstat(&hidden).map_err(io::Error::from).trying(what())?.st_mode & 0o7777;
        options.data.push(("mode".to_owned(), Some(format!("{mode:o}"))));
    }
    let tree = new_filesystem(kind, &source.to_string_lossy(), &options.data).trying(what())?;
    let at = match kind {
        "proc" | "sysfs" => kernel_mount_point(&root, destination).trying(what())?,
        _ => mount_point(&root, destination, Target::Directory).trying(what())?,
    };
    if kind != "proc" {
        not_over_proc(&at, destination)?;
    }
    if options.copy_up {
        copy_tree(at.as_fd(), tree.as_fd()).trying(what())?;
    }
    let later = kind == "tmpfs" && options.set & attr::RDONLY != 0;
    if later {
        options.set &= !attr::RDONLY;
    }
    if options.set | options.clear != 0 {
        set_attributes(&tree, false, options.set, options.clear & !options.set | atime(&options), 0).trying(what())?;
    }
    attach(&tree, &at).trying(what())?;
    propagate(&tree, &options).trying(what())?;
    Ok(later.then_some(tree))
}

/// The kernel wants the whole access time field cleared when any of it is set.
fn atime(options: &Options) -> u64 {
    if (options.set | options.clear) & attr::ATIME != 0 { attr::ATIME } else { 0 }
}

fn propagate(tree: impl AsFd, options: &Options) -> io::Result<()> {
    match options.propagation {
        Some((kind, recursive)) => set_attributes(tree, recursive, 0, 0, kind),
        None => Ok(()),
    }
}

/// `/sys/fs/cgroup` as the container sees it: its own groups alone.
fn cgroup(root: impl AsFd, destination: &Path, options: &Options) -> Result<(), RuntimeError> {
    use crate::runtime::cgroup::Hierarchy;
    let what = || format!("mount control groups at {} in the container", destination.display());
    let put = |kind: &str, data: &[(String, Option<String>)], at: &Path| -> io::Result<()> {
        let tree = new_filesystem(kind, "cgroup", data)?;
        set_attributes(&tree, false, options.set, 0, 0)?;
        attach(&tree, mount_point(&root, at, Target::Directory)?)
    };
    match Hierarchy::detect() {
        Hierarchy::V2(_) => put("cgroup2", &[], destination).trying(what()),
        Hierarchy::V1(all, _) => {
            let pair = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
            let tmpfs = new_filesystem("tmpfs", "tmpfs", &[pair("mode", "755"), pair("size", "64k")]).trying(what())?;
            attach(&tmpfs, mount_point(&root, destination, Target::Directory).trying(what())?).trying(what())?;
            for (names, _) in all {
                let mut data: Vec<(String, Option<String>)> = Vec::new();
                let mut directory = Vec::new();
                for name in &names {
                    match name.split_once('=') {
                        Some((key, value)) => {
                            data.extend([("none".to_owned(), None), pair(key, value)]);
                            directory.push(value);
                        }
                        None => {
                            data.push((name.clone(), None));
                            directory.push(name.as_str());
                        }
                    }
                }
                put("cgroup", &data, &destination.join(directory.join(","))).trying(what())?;
            }
            set_attributes(&tmpfs, false, options.set, 0, 0).trying(what())
        }
        Hierarchy::Absent => Ok(()),
    }
}

/// Copies what a directory holds into another: what fills a new volume or tmpfs. Regular files, directories
/// and symlinks; nothing is followed.
pub fn copy_tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    use rustix::fs::{AtFlags, Dir, Gid, Uid, chmodat, chownat, fchmod, fchown, mkdirat, readlinkat, symlinkat};
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = openat(from, ".", flags | OFlags::DIRECTORY, Mode::empty())?;
    let target = openat(to, ".", flags | OFlags::DIRECTORY, Mode::empty())?;
    for entry in Dir::read_from(&source)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = rustix::fs::statat(&source, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let (uid, gid) = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                mkdirat(&target, name, Mode::from_raw_mode(0o700))?;
                let inner = openat(&source, name, flags | OFlags::DIRECTORY, Mode::empty())?;
                copy_tree(inner.as_fd(), openat(&target, name, flags | OFlags::DIRECTORY, Mode::empty())?.as_fd())?;
                chownat(&target, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
                chmodat(&target, name, mode, AtFlags::empty())?;
            }
            FileType::Symlink => {
                symlinkat(readlinkat(&source, name, Vec::new())?, &target, name)?;
                chownat(&target, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            FileType::RegularFile => {
                let mut read = std::fs::File::from(openat(&source, name, flags, Mode::empty())?);
                let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let mut write = std::fs::File::from(openat(&target, name, create, Mode::from_raw_mode(0o600))?);
                io::copy(&mut read, &mut write)?;
                fchown(&write, uid, gid)?;
                fchmod(&write, mode)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Hides paths of the container (absolute, in the new root) behind nothing: a file behind /dev/null, a directory
/// behind an empty read-only tmpfs. What is not there needs no mask.
pub fn mask(root: impl AsFd, paths: &[String]) -> Result<(), RuntimeError> {
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let what = || format!("hide {path} in the container");
        let at = match open_in_root(&root, path, OFlags::PATH) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            at => at.trying(what())?,
        };
        if is_dir(&at).trying(what())? {
            let tree = match &empty {
                Some(first) => clone_tree(first, false).trying(what())?,
                None => {
                    let tree = new_filesystem("tmpfs", "tmpfs", &[("size".into(), Some("0".into()))]).trying(what())?;
                    set_attributes(&tree, false, attr::RDONLY, 0, 0).trying(what())?;
                    empty = Some(clone_first(&tree).trying(what())?);
                    tree
                }
            };
            attach(&tree, &at).trying(what())?;
        } else {
            let null = open_in_root(&root, "/dev/null", OFlags::PATH | OFlags::NOFOLLOW).trying(what())?;
            let stat = fstat(&null).trying(what())?;
            // An image with a /dev of its own and none mounted over it must not choose what the mask shows.
            if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice
                || stat.st_rdev != rustix::fs::makedev(1, 3)
            {
                return Err(RuntimeError::Malformed("the container's /dev/null is not the null device".into()));
            }
            attach(clone_tree(&null, false).trying(what())?, &at).trying(what())?;
        }
    }
    Ok(())
}

/// A second handle on a detached mount that is about to be attached.
fn clone_first(tree: &OwnedFd) -> io::Result<OwnedFd> {
    tree.try_clone()
}

/// Makes paths of the container read-only. What is not there stays so.
pub fn protect(root: impl AsFd, paths: &[String]) -> Result<(), RuntimeError> {
    for path in paths {
        let what = || format!("make {path} read-only in the container");
        let at = match open_in_root(&root, path, OFlags::PATH) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            at => at.trying(what())?,
        };
        let tree = clone_tree(&at, true).trying(what())?;
        set_attributes(&tree, true, attr::RDONLY, 0, 0).trying(what())?;
        attach(&tree, &at).trying(what())?;
    }
    Ok(())
}

/// Makes an open device (a terminal) appear at a path of the container.
pub fn bind_open(root: impl AsFd, device: impl AsFd, path: &Path) -> io::Result<()> {
    let at = mount_point(root, path, Target::File)?;
    attach(clone_tree(device, false)?, at)
}
