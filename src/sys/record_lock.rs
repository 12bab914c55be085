//! Locks that can be looked at without being taken: fcntl's open-file-description locks. They end with the last
//! descriptor of the open file, so with the process.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

fn whole_file() -> libc::flock {
    // SAFETY: flock is plain data for which zero is valid: from the start to the end of the file.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock
}

/// Takes the write lock; `false` when another holds it.
pub fn try_write_lock(file: &File) -> io::Result<bool> {
    let lock = whole_file();
    // SAFETY: the structure is valid for the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) } {
        0 => Ok(true),
        _ => match io::Error::last_os_error() {
            error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
            error => Err(error),
        },
    }
}

/// Whether another open file holds a lock.
pub fn is_write_locked(file: &File) -> io::Result<bool> {
    let mut lock = whole_file();
    // SAFETY: the structure is valid for the call, which writes to it.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &mut lock) } {
        0 => Ok(lock.l_type != libc::F_UNLCK as libc::c_short),
        _ => Err(io::Error::last_os_error()),
    }
}
