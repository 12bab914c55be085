//! Progress as events. Libraries report, never print; `cli` draws, or writes JSON, or stays silent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::cancel::{Cancel, Interrupted};

/// What happened to one piece of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A piece of work began.
    Began {
        /// Its number, unique in this process.
        task: u64,
        /// What is done, a short verb phrase in docker's terms: "Loading layer".
        action: &'static str,
        /// To what: a layer's short ID, a file name, a host.
        object: String,
        /// The bytes to do, when known.
        total: Option<u64>,
    },
    /// More of it is done.
    Advanced {
        /// The task's number.
        task: u64,
        /// The bytes done since it began.
        done: u64,
    },
    /// Its size has become known.
    Sized {
        /// The task's number.
        task: u64,
        /// The bytes to do.
        total: u64,
    },
    /// It ended, well or not; errors travel as errors.
    Ended {
        /// The task's number.
        task: u64,
        /// Whether it was completed.
        completed: bool,
    },
    /// Something the user should know that is not an error.
    Warning(String),
}

/// Takes events; called from several threads at once.
pub trait Progress: Send + Sync {
    /// Takes one event. Must be quick: the work waits for it.
    fn event(&self, event: Event);
}

/// Drops every event.
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: Event) {}
}

/// What every long operation is given: whom to tell, and when to stop.
#[derive(Clone)]
pub struct Ctx {
    progress: Arc<dyn Progress>,
    /// Checked between steps.
    pub cancel: Cancel,
}

impl Ctx {
    /// Reports to `progress`, stops when `cancel` is thrown.
    pub fn new(progress: Arc<dyn Progress>, cancel: Cancel) -> Self {
        Self { progress, cancel }
    }

    /// Reports to nobody and is never stopped.
    pub fn silent() -> Self {
        Self::new(Arc::new(Silent), Cancel::new())
    }

    /// Begins a piece of work of `total` bytes; it is reported as failed unless [`Task::complete`] is called.
    pub fn begin(&self, action: &'static str, object: impl Into<String>, total: Option<u64>) -> Task {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        self.progress.event(Event::Began { task: id, action, object: object.into(), total });
        Task { ctx: self.clone(), id, done: AtomicU64::new(0), told: AtomicU64::new(0), completed: false }
    }

    /// Tells the user something that is not an error.
    pub fn warn(&self, text: impl Into<String>) {
        self.progress.event(Event::Warning(text.into()));
    }

    /// Fails once the user has asked to stop.
    pub fn check(&self) -> Result<(), Interrupted> {
        self.cancel.check()
    }
}

/// A piece of work under way.
pub struct Task {
    ctx: Ctx,
    id: u64,
    done: AtomicU64,
    told: AtomicU64,
    completed: bool,
}

impl Task {
    /// Events closer together than this many bytes are not worth drawing.
    const STEP: u64 = 1 << 20;

    /// `bytes` more are done. Fails once the user has asked to stop.
    pub fn advance(&self, bytes: u64) -> Result<(), Interrupted> {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if done - self.told.load(Ordering::Relaxed).min(done) >= Self::STEP {
            self.told.store(done, Ordering::Relaxed);
            self.ctx.progress.event(Event::Advanced { task: self.id, done });
        }
        self.ctx.check()
    }

    /// How many bytes there are to do, now that it is known.
    pub fn total(&self, total: u64) {
        self.ctx.progress.event(Event::Sized { task: self.id, total });
    }

    /// The work is done.
    pub fn complete(mut self) {
        self.completed = true;
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let done = self.done.load(Ordering::Relaxed);
        if done > self.told.load(Ordering::Relaxed) {
            self.ctx.progress.event(Event::Advanced { task: self.id, done });
        }
        self.ctx.progress.event(Event::Ended { task: self.id, completed: self.completed });
    }
}
