//! Buffers that are used again: the kernel clears every page that it gives, and an allocator gives none back at once.

use std::sync::Mutex;

use super::lock;

/// Buffers that wait to be filled again, for as many threads as like.
#[derive(Debug, Default)]
pub struct Spare(Mutex<Vec<Vec<u8>>>);

impl Spare {
    /// An empty buffer with room for `capacity` bytes at least.
    pub fn take(&self, capacity: usize) -> Vec<u8> {
        let mut buffer = lock(&self.0).pop().unwrap_or_default();
        buffer.reserve_exact(capacity);
        buffer
    }

    /// What is in `buffer` is not needed any more.
    pub fn give_back(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() > 0 {
            buffer.clear();
            lock(&self.0).push(buffer);
        }
    }
}
