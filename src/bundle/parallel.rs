//! Work on several threads: in any order, and in order.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use crate::base::{BoxFault, Interrupted, lock};

/// Does `count` pieces of work on at most `threads` threads; stops at the first error, which it returns.
pub(crate) fn in_parallel(
    threads: usize,
    count: usize,
    work: &(dyn Fn(usize) -> Result<(), BoxFault> + Sync),
) -> Result<(), BoxFault> {
    let next = AtomicUsize::new(0);
    let run = || -> Result<(), BoxFault> {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                return Ok(());
            }
            work(at).inspect_err(|_| next.store(count, Ordering::Relaxed))?;
        }
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(count)).map(|_| scope.spawn(run)).collect();
        let mut result = run();
        for other in others {
            let ended = other.join().unwrap_or_else(|panic| resume_unwind(panic));
            result = result.and(ended);
        }
        result
    })
}

/// Makes `count` things on `workers` threads and hands them to `put` on this one, in order. At most one a worker is begun
/// and not put yet.
pub(crate) fn in_order<T: Send>(
    workers: usize,
    count: usize,
    make: &(dyn Fn(usize) -> Result<T, BoxFault> + Sync),
    put: &mut dyn FnMut(usize, T) -> Result<(), BoxFault>,
) -> Result<(), BoxFault> {
    struct State<T> {
        next: usize,
        put: usize,
        stopped: bool,
        made: BTreeMap<usize, Result<T, BoxFault>>,
    }
    let state = Mutex::new(State { next: 0, put: 0, stopped: false, made: BTreeMap::new() });
    let changed = Condvar::new();
    let wait = |guard| changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
    let work = || {
        loop {
            let at = {
                let mut guard = lock(&state);
                while !guard.stopped && guard.next < count && guard.next >= guard.put + workers {
                    guard = wait(guard);
                }
                if guard.stopped || guard.next >= count {
                    return;
                }
                guard.next += 1;
                guard.next - 1
            };
            let made = catch_unwind(AssertUnwindSafe(|| make(at)));
            // Whoever waits for what a panic left unmade would wait for ever.
            let (made, panic) = match made {
                Ok(made) => (made, None),
                Err(panic) => (Err(Interrupted.into()), Some(panic)),
            };
            let mut guard = lock(&state);
            guard.stopped |= made.is_err();
            guard.made.insert(at, made);
            changed.notify_all();
            drop(guard);
            if let Some(panic) = panic {
                resume_unwind(panic);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..workers.min(count) {
            scope.spawn(work);
        }
        let mut result = Ok(());
        for at in 0..count {
            let made = {
                let mut guard = lock(&state);
                loop {
                    if let Some(made) = guard.made.remove(&at) {
                        break Some(made);
                    }
                    // Whatever comes after an error may never be made; the error itself is.
                    if guard.stopped && at >= guard.next {
                        break None;
                    }
                    guard = wait(guard);
                }
            };
            result = match made {
                Some(Ok(thing)) => put(at, thing),
                Some(Err(fault)) => Err(fault),
                None => break,
            };
            let mut guard = lock(&state);
            guard.put = at + 1;
            guard.stopped |= result.is_err();
            changed.notify_all();
            drop(guard);
            if result.is_err() {
                break;
            }
        }
        result
    })
}
