//! The binary, in a form that no container can write to through /proc/PID/exe (CVE-2019-5736).
//!
//! Whoever runs near a container (monitor, init, exec) is started from here: through a lower-only overlay of the
//! directory the binary lies in, which costs no copy and cannot be made writable; where overlays cannot be made so
//! (kernels before 5.2, some user namespaces), from a sealed copy in memory.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::Command;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};

use super::error::{RuntimeError, While};

/// A command that runs this binary sealed. `other` is any directory of ferry's own that is not the binary's.
pub fn command(other: &Path) -> Result<(Command, OwnedFd), RuntimeError> {
    let file = overlay(other).or_else(|_| copy()).trying("seal ferry's own binary")?;
    let mut command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
    std::os::unix::process::CommandExt::arg0(&mut command, "ferry");
    Ok((command, file))
}

fn overlay(other: &Path) -> io::Result<OwnedFd> {
    let exe = std::fs::read_link("/proc/self/exe")?;
    let (Some(directory), Some(name)) = (exe.parent(), exe.file_name()) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    // The upper one of the two comes first: a file of the binary's name in the other must not be taken for it.
    let lower = [escape(directory), escape(other)].join(&b':');
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "lowerdir", OsString::from_vec(lower).as_os_str().as_bytes())?;
    // Without it the kernel logs a line when the two lie on different file systems.
    let _ = fsconfig_set_string(&context, "xino", "off");
    fsconfig_create(&context)?;
    let flags =
        MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
    let sealed = openat(&mount, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    // A deleted or replaced binary (an update while this runs): the path no longer means this program.
    let (ours, theirs) = (rustix::fs::stat("/proc/self/exe")?, rustix::fs::fstat(&sealed)?);
    if ours.st_size == theirs.st_size && ours.st_mtime == theirs.st_mtime {
        Ok(sealed)
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Overlay's own separators, made harmless.
fn escape(path: &Path) -> Vec<u8> {
    let mut escaped = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        if matches!(byte, b':' | b'\\') {
            escaped.push(b'\\');
        }
        escaped.push(*byte);
    }
    escaped
}

fn copy() -> io::Result<OwnedFd> {
    let memory = memfd_create("ferry", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut memory = File::from(memory);
    io::copy(&mut File::open("/proc/self/exe")?, &mut memory)?;
    fcntl_add_seals(&memory, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(memory.into())
}
