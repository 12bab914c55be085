//! From the host's file system to the container's: propagation, mounts, device nodes, and the change of root.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chmodat, chownat, mknodat, openat, symlinkat};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::process::{PidfdFlags, fchdir, getpid, pidfd_open, pivot_root};

use super::mounts;
use crate::runtime::error::{RuntimeError, While};
use crate::sys::mount::{Target, attr, mount_point, open_dir, open_in_root, set_attributes};
use crate::sys::process::setns;

/// Makes this process's mount namespace stop telling the host's about its mounts.
pub fn leave_propagation() -> Result<(), RuntimeError> {
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", flags).trying("separate the container's mounts from the host's")
}

/// Opens the root file system at `path` as a mount of its own.
pub fn open_root(path: &Path) -> Result<OwnedFd, RuntimeError> {
    use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
    let what = || format!("use {} as a root file system", path.display());
    // pivot_root wants a mount; a copy of one at its own place always is.
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, path, flags).trying(what())?;
    set_attributes(&tree, true, 0, 0, libc::MS_PRIVATE).trying(what())?;
    move_mount(&tree, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).trying(what())?;
    Ok(tree)
}

/// Makes the document's mounts and devices below `root`.
pub fn prepare(root: &OwnedFd, spec: &Spec) -> Result<(), RuntimeError> {
    let mut read_only = Vec::new();
    for mount in spec.mounts().iter().flatten() {
        read_only.extend(mounts::mount_in_order(root, mount)?);
    }
    let bound_dev =
        spec.mounts().iter().flatten().any(|mount| {
            mount.destination() == Path::new("/dev") && mount.typ().as_deref().unwrap_or("bind") == "bind"
        });
    if !bound_dev {
        devices(root, spec).trying("make the container's devices")?;
    }
    for tmpfs in read_only {
        mounts::make_read_only(&tmpfs)?;
    }
    Ok(())
}

/// The nodes every container has (OCI runtime specification, "Default Devices").
const NODES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

fn devices(root: &OwnedFd, spec: &Spec) -> io::Result<()> {
    for (path, major, minor) in NODES {
        let mut device = LinuxDevice::default();
        device.set_path(PathBuf::from(path));
        device.set_typ(LinuxDeviceType::C);
        device.set_major(i64::from(major));
        device.set_minor(i64::from(minor));
        device.set_file_mode(Some(0o666));
        node(root, &device)?;
    }
    for device in spec.linux().iter().flat_map(|linux| linux.devices().iter().flatten()) {
        node(root, device)?;
    }
    let dev = mount_point(root, Path::new("/dev"), Target::Directory)?;
    for (target, name) in [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("/proc/kcore", "core"),
        ("pts/ptmx", "ptmx"),
    ] {
        match symlinkat(target, &dev, name) {
            Err(rustix::io::Errno::EXIST) => {}
            made => made?,
        }
    }
    Ok(())
}

fn node(root: &OwnedFd, device: &LinuxDevice) -> io::Result<()> {
    let path = device.path();
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(invalid()) };
    let directory = mount_point(root, parent, Target::Directory)?;
    let number = |n: i64| u32::try_from(n).map_err(|_| invalid());
    let rdev = rustix::fs::makedev(number(device.major())?, number(device.minor())?);
    let kind = match device.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::P => FileType::Fifo,
        _ => FileType::CharacterDevice,
    };
    let mode = Mode::from_raw_mode(device.file_mode().unwrap_or(0o666) & 0o7777);
    match mknodat(&directory, name, kind, mode, rdev) {
        Ok(()) => {
            // The umask does not count.
            chmodat(&directory, name, mode, AtFlags::empty())?;
            let (uid, gid) = (device.uid().map(Uid::from_raw), device.gid().map(Gid::from_raw));
            if uid.is_some_and(|uid| !uid.is_root()) || gid.is_some_and(|gid| !gid.is_root()) {
                chownat(&directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Ok(())
        }
        Err(rustix::io::Errno::EXIST) => Ok(()),
        // In a user namespace nodes cannot be made: the host's own is shown instead.
        Err(rustix::io::Errno::PERM) => {
            let host = openat(CWD, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
            mounts::bind_open(root, host, path)
        }
        Err(error) => Err(error.into()),
    }
}

/// Opens a new terminal in the container's own devpts: the master's side and the container's.
pub fn open_terminal(root: &OwnedFd) -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let master = open_in_root(root, "/dev/pts/ptmx", flags)?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    Ok((master, slave))
}

/// Makes `root` this process's `/` and takes the old one away.
pub fn change_root(root: &OwnedFd) -> Result<(), RuntimeError> {
    let enter = || -> io::Result<()> {
        // In a chroot, pivot_root would leave what is outside it in the namespace, as the root of whoever enters that: `exec`
        // would run on the host's files. Entering one's own namespace makes its root one's own.
        let own = pidfd_open(getpid(), PidfdFlags::empty())?;
        setns(&own, libc::CLONE_NEWNS)?;
        let old = open_dir(Path::new("/"))?;
        fchdir(root)?;
        // The old root lands on top of the new one; seen from there it is what "." is unmounted from.
        pivot_root(".", ".")?;
        fchdir(&old)?;
        mount_change(".", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
        unmount(".", UnmountFlags::DETACH)?;
        rustix::process::chdir("/")?;
        Ok(())
    };
    enter().trying("enter the container's root file system")
}

/// What comes last because it forbids the rest: masks, read-only paths, a read-only root.
pub fn seal(spec: &Spec) -> Result<(), RuntimeError> {
    let root = open_dir(Path::new("/")).trying("open the container's root")?;
    if let Some(linux) = spec.linux() {
        mounts::protect(&root, linux.readonly_paths().as_deref().unwrap_or_default())?;
        mounts::mask(&root, linux.masked_paths().as_deref().unwrap_or_default())?;
    }
    if spec.root().as_ref().and_then(|root| root.readonly()) == Some(true) {
        set_attributes(&root, false, attr::RDONLY, 0, 0).trying("make the container's root read-only")?;
    }
    let propagation = spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref());
    let kind = match propagation {
        Some("shared" | "rshared") => libc::MS_SHARED,
        Some("slave" | "rslave") => libc::MS_SLAVE,
        Some("unbindable" | "runbindable") => libc::MS_UNBINDABLE,
        _ => return Ok(()),
    };
    set_attributes(root.as_fd(), true, 0, 0, kind).trying("set the container's mount propagation")
}
