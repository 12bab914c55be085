//! Room, holes, durability: what a file system is asked as a whole.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

/// The room on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that this process may still use.
    pub free: u64,
    /// Files that may still be made; `u64::MAX` where the file system has no such limit.
    pub files: u64,
    /// Its size in bytes.
    pub total: u64,
}

/// The room on the file system that `path` is on.
pub fn room(path: &Path) -> io::Result<Room> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(Room {
        free: stat.f_bavail.saturating_mul(stat.f_frsize),
        files: if stat.f_files == 0 { u64::MAX } else { stat.f_favail },
        total: stat.f_blocks.saturating_mul(stat.f_frsize),
    })
}

/// Makes everything on the file system of `file` durable.
pub fn sync_filesystem(file: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::syncfs(file)?)
}

/// Reserves `size` bytes for a file; a file system that cannot reserve is no error.
pub fn preallocate(file: &File, size: u64) -> io::Result<()> {
    if size == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, size) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        other => Ok(other?),
    }
}

/// The next stretch of a file that is not a hole, from `offset` on: begin and end. `None` when only a hole is left.
pub fn next_data(file: &File, offset: u64) -> io::Result<Option<(u64, u64)>> {
    let begin = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Err(Errno::NXIO) => return Ok(None),
        other => other?,
    };
    Ok(Some((begin, rustix::fs::seek(file, SeekFrom::Hole(begin))?)))
}

/// Copies up to `length` bytes between files in the kernel, sharing blocks where the file system can; gives back how
/// many were copied, fewer at the end of `from`. Both positions move. Files that the kernel cannot copy between are
/// copied through memory.
pub fn copy_range(from: &File, to: &File, length: u64) -> io::Result<u64> {
    let mut done = 0;
    while done < length {
        let step = usize::try_from(length - done).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from, None, to, None, step) {
            Ok(0) => break,
            Ok(n) => done += n as u64,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                let (mut from, mut to) = (from, to);
                return Ok(done + io::copy(&mut io::Read::take(&mut from, length - done), &mut to)?);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}

/// Gives the calling thread a umask of its own, which is 0: files get exactly the modes they are created with. Only for
/// threads that do nothing else; the thread also gets a current directory of its own.
pub fn clear_umask_of_this_thread() -> io::Result<()> {
    // SAFETY: CLONE_FS unshares the umask, root and current directory of this thread; no memory and no descriptor is
    // touched, and `unshare_unsafe` is unsafe only for CLONE_FILES.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }?;
    rustix::process::umask(rustix::fs::Mode::empty());
    Ok(())
}
