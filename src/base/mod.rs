//! What everything else stands on; imports nothing of ferry's.

pub mod cancel;
pub mod caps;
pub(crate) mod codec;
pub mod digest;
pub mod durable;
pub mod error;
pub mod progress;
pub mod read;
pub mod read_at;
pub mod spare;
pub(crate) mod syncer;
pub mod verify;

pub use cancel::{Cancel, Interrupted};
pub use digest::{ContentId, Digest};
pub use error::{AtPath, BoxFault, Class, Fault, PathError};
pub use progress::Ctx;
pub use read_at::ReadAt;
pub use spare::Spare;
pub(crate) use syncer::Syncer;

/// Locks, whoever panicked with it.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
