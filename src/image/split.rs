//! A layer in two parts: *segments*, the raw bytes of its tar stream that are not file contents (headers, padding,
//! trailer), and *contents*, each regular file's bytes, named by BLAKE3. Put together in order they are the tar again.

use std::io;
use std::sync::Arc;

use crate::base::read_at::ReadAt;
use crate::base::{BoxFault, ContentId};

/// The bytes of one regular file in a layer's tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SplitContent<'a> {
    /// Their hash.
    pub id: ContentId,
    /// How many; never zero.
    pub size: u64,
    /// Where they begin in the tar, in bytes.
    pub offset: u64,
    /// The entry's path as the tar has it.
    pub path: &'a [u8],
}

/// Takes a layer apart, in the order of its tar stream.
pub trait SplitSink {
    /// The next raw bytes; a segment may come in several pieces.
    fn segment(&mut self, bytes: &[u8]) -> Result<(), BoxFault>;

    /// A file's content stands here.
    fn content(&mut self, content: &SplitContent<'_>) -> Result<(), BoxFault>;
}

/// Where a content can be read: `size` bytes of `bytes` from `offset` on.
#[derive(Clone)]
pub struct Extent {
    /// A file, or what acts as one.
    pub bytes: Arc<dyn ReadAt>,
    /// In bytes.
    pub offset: u64,
}

impl Extent {
    /// Fills `buf` from `at` bytes into the content on.
    pub fn read_exact_at(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        let offset = self.offset.checked_add(at).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.bytes.read_exact_at(buf, offset)
    }
}
