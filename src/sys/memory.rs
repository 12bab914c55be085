//! Memory that the kernel gets back at once.

use rustix::mm::{Advice, madvise};

/// A multiple of every page size there is, in bytes.
const ALIGNED: usize = 64 << 10;

/// Frees a large buffer. What one thread has taken and another frees, mimalloc only marks as free for the taking
/// (`MADV_FREE`), and it counts as taken until there is no other.
pub fn free(mut buffer: Vec<u8>) {
    buffer.clear();
    let room = buffer.spare_capacity_mut().as_mut_ptr_range();
    let (start, end) = (room.start.addr().next_multiple_of(ALIGNED), room.end.addr() / ALIGNED * ALIGNED);
    if start < end {
        let from = room.start.map_addr(|_| start).cast();
        // SAFETY: The pages lie within a buffer of our own that holds nothing, and stay mapped; all that changes is what they
        // hold.
        let _ = unsafe { madvise(from, end - start, Advice::LinuxDontNeed) };
    }
}
