//! Files that go or change while they are read: a container's own, when it runs on meanwhile. Each that is not in the
//! tar as it was is told of, the first ones by name.

use std::sync::atomic::{AtomicU64, Ordering};

use super::error::shown;
use crate::base::Ctx;

/// How many are named.
const NAMED: u64 = 20;

/// Tells of them; used by several threads at once.
pub struct Churn<'a> {
    ctx: &'a Ctx,
    count: AtomicU64,
}

impl<'a> Churn<'a> {
    /// Tells the user by `ctx`.
    pub fn new(ctx: &'a Ctx) -> Self {
        Self { ctx, count: AtomicU64::new(0) }
    }

    /// What was to be read at a path of the tree is there no more.
    pub fn vanished(&self, path: &[u8]) {
        self.tell(path, "went or became another while it was read, and is left out");
    }

    /// A file has become shorter since its header was written.
    pub fn shrank(&self, path: &[u8], missing: u64) {
        self.tell(path, &format!("shrank while it was read: its last {missing} bytes are zeros"));
    }

    fn tell(&self, path: &[u8], what: &str) {
        if self.count.fetch_add(1, Ordering::Relaxed) < NAMED {
            self.ctx.warn(format!("{:?} {what}", shown(path)));
        }
    }

    /// Tells how many there were beside those that were named.
    pub fn sum_up(&self) {
        let count = self.count.load(Ordering::Relaxed);
        if count > NAMED {
            let more = count - NAMED;
            self.ctx.warn(format!("{more} more files went or changed while they were read, and are left out or short"));
        }
    }
}
