//! Files that are synced while they are written. Otherwise the medium, and every cache on the way to it, have nothing to
//! do until somebody waits for all of it; writing out alone (`sync_file_range`) leaves the bytes in those caches.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

/// After how many bytes more a file is synced.
const SYNC_AFTER: u64 = 8 << 20;
/// How many times that its writer may be ahead of the medium, about: a command that is interrupted waits for little more.
const AHEAD: usize = 32;

/// Syncs one file, or several of one medium, on a thread of its own once they are large.
#[derive(Debug, Default)]
pub struct Syncer {
    /// Bytes written since the thread was told.
    untold: u64,
    work: Option<Work>,
}

#[derive(Debug)]
struct Work {
    told: SyncSender<Arc<File>>,
    thread: JoinHandle<io::Result<()>>,
}

impl Syncer {
    /// `n` bytes more of `file` were written. Waits when the medium is far behind; gives the error that a sync had.
    pub fn wrote(&mut self, file: &Arc<File>, n: u64) -> io::Result<()> {
        self.untold += n;
        if self.untold < SYNC_AFTER {
            return Ok(());
        }
        self.untold = 0;
        if self.work.is_none() {
            // Where no thread is to be had, whoever wrote the file syncs all of it.
            self.work = Work::begin().ok();
        }
        if self.work.as_ref().is_some_and(|work| work.told.send(Arc::clone(file)).is_err()) {
            return self.end();
        }
        Ok(())
    }

    /// Waits for the sync under way, and gives the error that any had: the kernel tells it once, and a sync by anybody
    /// else says nothing of it. What was written last is not synced yet.
    pub fn end(&mut self) -> io::Result<()> {
        let Some(Work { told, thread }) = self.work.take() else { return Ok(()) };
        drop(told);
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Work {
    fn begin() -> io::Result<Self> {
        let (told, wakes) = sync_channel(AHEAD);
        let thread = thread::Builder::new().name("sync".into()).spawn(move || sync(&wakes))?;
        Ok(Self { told, thread })
    }
}

fn sync(wakes: &Receiver<Arc<File>>) -> io::Result<()> {
    while let Ok(mut file) = wakes.recv() {
        while let Ok(next) = wakes.try_recv() {
            // One sync does for all that was told of a file so far.
            if !Arc::ptr_eq(&file, &next) {
                file.sync_data()?;
                file = next;
            }
        }
        file.sync_data()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_sync_is_told() {
        // A pipe cannot be synced.
        let (_reader, writer) = io::pipe().unwrap();
        let file = Arc::new(File::from(std::os::fd::OwnedFd::from(writer)));
        let mut syncer = Syncer::default();
        syncer.wrote(&file, SYNC_AFTER - 1).unwrap();
        assert!(syncer.work.is_none(), "a small file is its writer's to sync");
        let ended = syncer.wrote(&file, 1).and_then(|()| syncer.end());
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        syncer.end().unwrap();
    }
}
