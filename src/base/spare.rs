//! Buffers that are used again: the kernel clears every page that it gives, and an allocator gives none back at once.

use std::sync::{Mutex, PoisonError};

use super::lock;

/// Buffers that wait to be filled again, for as many threads as like.
#[derive(Debug, Default)]
pub struct Spare(Mutex<Vec<Vec<u8>>>);

impl Spare {
    /// An empty buffer with room for `capacity` bytes at least.
    pub fn take(&self, capacity: usize) -> Vec<u8> {
        match lock(&self.0).pop() {
            Some(buffer) if buffer.capacity() >= capacity => buffer,
            // One that grows is copied, pages that never held anything included.
            _ => Vec::with_capacity(capacity),
        }
    }

    /// All that wait, for whoever knows how to free them better.
    pub fn into_buffers(self) -> Vec<Vec<u8>> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is in `buffer` is not needed any more.
    pub fn give_back(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() > 0 {
            buffer.clear();
            lock(&self.0).push(buffer);
        }
    }
}
