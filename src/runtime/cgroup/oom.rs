//! Word from the kernel that a group has no memory left, for a process that waits for many things at once.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;

use super::{Cgroup, Hierarchy};

/// A group that is watched.
#[derive(Debug)]
pub struct OomWatch {
    fd: OwnedFd,
    /// On v2, how often the kernel had killed when that was last looked at: its file tells of other things as well.
    known: Option<u64>,
}

impl OomWatch {
    /// Watches a group; `None` where it has no memory controller, or may not be watched.
    pub fn of(cgroup: &Cgroup) -> Option<Self> {
        let dir = cgroup.dir("memory")?;
        match cgroup.hierarchy {
            Hierarchy::V1(..) => by_eventfd(&dir),
            Hierarchy::V2(_) => by_inotify(&dir),
            Hierarchy::Absent => None,
        }
    }

    /// What can be read from when there may be news.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether there was no memory left since this was asked last.
    pub fn news(&mut self, cgroup: &Cgroup) -> bool {
        let mut told = false;
        while rustix::io::read(&self.fd, &mut [0; 512]).is_ok_and(|count| count > 0) {
            told = true;
        }
        match &mut self.known {
            None => told,
            Some(known) => {
                let before = std::mem::replace(known, cgroup.oom_kills());
                *known > before
            }
        }
    }
}

/// Documentation/admin-guide/cgroup-v1/memory.rst, "OOM Control". It tells before the kernel kills: the count of that
/// would be looked at too early.
fn by_eventfd(dir: &Path) -> Option<OomWatch> {
    let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()?;
    let control = File::open(dir.join("memory.oom_control")).ok()?;
    let line = format!("{} {}", fd.as_raw_fd(), control.as_raw_fd());
    fs::write(dir.join("cgroup.event_control"), line).ok()?;
    Some(OomWatch { fd, known: None })
}

/// Documentation/admin-guide/cgroup-v2.rst: a change of `memory.events` is a file modified event.
fn by_inotify(dir: &Path) -> Option<OomWatch> {
    let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).ok()?;
    inotify::add_watch(&fd, dir.join("memory.events"), inotify::WatchFlags::MODIFY).ok()?;
    Some(OomWatch { fd, known: Some(0) })
}
