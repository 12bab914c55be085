//! Threads that make regular files while the layer is read on. Making a file is nearly all kernel time; the threads
//! take it off the one that hashes. Where other layers keep all processors busy that would be a detour: then the reader
//! makes its files itself, straight from its buffer.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::available_parallelism;

use super::attributes::Attributes;
use super::tree::Place;
use crate::base::{AtPath, PathError};
use crate::sys::dir::Dir;

/// Bytes that wait for the disk, at most; what one layer's load needs in memory.
const WAITING_BYTES: usize = 6 << 20;
/// Files that wait, at most.
const WAITING_JOBS: usize = 512;

/// Layers that this process is unpacking.
static READING: AtomicUsize = AtomicUsize::new(0);

/// Makes a whole file.
pub(super) fn make(place: &Place, attributes: &Attributes, data: &[u8]) -> Result<(), PathError> {
    let file = place.dir.create_file(&place.name, attributes.mode_at_first())?;
    let full = || place.dir.full(place.name.as_ref());
    if !data.is_empty() {
        file.write_all_at(data, 0).at("write", full())?;
    }
    attributes.set(&file).at("set attributes of", full())
}

/// Something to write.
pub(super) enum Job {
    /// A whole file.
    Whole { place: Place, attributes: Attributes, data: Vec<u8> },
    /// A piece of a file that is open.
    Piece { file: Arc<Open>, offset: u64, data: Vec<u8> },
}

/// A large file being written, by several threads at once.
pub(super) struct Open {
    file: File,
    dir: Arc<Dir>,
    name: OsString,
    attributes: Attributes,
    left: AtomicU64,
}

impl Open {
    /// Makes the file; its attributes are set when all of its `size` bytes are written.
    pub fn create(dir: Arc<Dir>, name: OsString, attributes: Attributes, size: u64) -> Result<Self, PathError> {
        let file = dir.create_file(&name, attributes.mode_at_first())?;
        Ok(Self { file, dir, name, attributes, left: AtomicU64::new(size) })
    }

    /// Writes a piece; pieces may come in any order and from any thread.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), PathError> {
        let full = || self.dir.full(self.name.as_ref());
        self.file.write_all_at(data, offset).at("write", full())?;
        // Whoever writes the last byte sets the attributes: writing changes times and clears set-ID bits.
        let before = self.left.fetch_sub(data.len() as u64, Ordering::AcqRel);
        if before == data.len() as u64 {
            self.attributes.set(&self.file).at("set attributes of", full())?;
        }
        Ok(())
    }
}

impl Job {
    fn bytes(&self) -> usize {
        match self {
            Self::Whole { data, .. } | Self::Piece { data, .. } => data.len(),
        }
    }

    fn run(self) -> Result<(), PathError> {
        match self {
            Self::Whole { place, attributes, data } => make(&place, &attributes, &data),
            Self::Piece { file, offset, data } => file.write(offset, &data),
        }
    }
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    bytes: usize,
    running: usize,
    idle: usize,
    closed: bool,
    error: Option<PathError>,
}

/// The queue between the reader and the writers.
pub(super) struct Writers {
    state: Mutex<State>,
    work: Condvar,
    done: Condvar,
    failed: AtomicBool,
    threads: usize,
    processors: usize,
}

impl Drop for Writers {
    fn drop(&mut self) {
        READING.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Writers {
    /// A queue that this many threads [`Writers::work`] for.
    pub fn new(threads: usize) -> Self {
        READING.fetch_add(1, Ordering::Relaxed);
        Self {
            state: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
            failed: AtomicBool::new(false),
            threads,
            processors: available_parallelism().map_or(1, usize::from),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether a job is better given to the writers than done by the reader: there is a processor for them to use, and
    /// they do not have enough yet.
    pub fn want_more(&self) -> Result<bool, PathError> {
        self.check()?;
        if self.threads == 0 || READING.load(Ordering::Relaxed) >= self.processors {
            return Ok(false);
        }
        let state = self.lock();
        Ok(state.bytes < WAITING_BYTES && state.jobs.len() < WAITING_JOBS)
    }

    /// Gives a job to the writers.
    pub fn submit(&self, job: Job) {
        let mut state = self.lock();
        state.bytes += job.bytes();
        state.jobs.push_back(job);
        let wake = state.idle > 0;
        drop(state);
        if wake {
            self.work.notify_one();
        }
    }

    /// Waits until everything submitted is on disk, helping. What is done to names after this finds them there.
    pub fn settle(&self) -> Result<(), PathError> {
        loop {
            let mut state = self.lock();
            if let Some(job) = state.jobs.pop_front() {
                state.bytes -= job.bytes();
                drop(state);
                job.run()?;
                continue;
            }
            while state.running > 0 {
                state = self.done.wait(state).unwrap_or_else(|e| e.into_inner());
            }
            if state.jobs.is_empty() {
                drop(state);
                return self.check();
            }
        }
    }

    fn check(&self) -> Result<(), PathError> {
        if self.failed.load(Ordering::Acquire)
            && let Some(error) = self.lock().error.take()
        {
            return Err(error);
        }
        Ok(())
    }

    /// What a writer thread does until the queue is closed.
    pub fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                state.bytes -= job.bytes();
                state.running += 1;
                drop(state);
                let result = job.run();
                state = self.lock();
                state.running -= 1;
                if let Err(error) = result {
                    state.error.get_or_insert(error);
                    self.failed.store(true, Ordering::Release);
                }
                if state.running == 0 {
                    self.done.notify_all();
                }
                continue;
            }
            if state.closed {
                return;
            }
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(|e| e.into_inner());
            state.idle -= 1;
        }
    }

    /// Lets the writer threads end; what is still queued is not written any more.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.jobs.clear();
        state.bytes = 0;
        drop(state);
        self.work.notify_all();
    }
}
