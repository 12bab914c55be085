//! Random access to bytes that do not change: what bundles, volumes and archives on disk are read through.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes of a known length that can be read anywhere, by several threads at once.
pub trait ReadAt: Send + Sync {
    /// How many bytes there are.
    fn size(&self) -> u64;

    /// Fills `buf` with the bytes from `offset` on. Fails with [`io::ErrorKind::UnexpectedEof`] when they are not all
    /// there; what is in `buf` then means nothing.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

/// A file of a fixed length.
#[derive(Debug)]
pub struct FileAt {
    file: File,
    size: u64,
}

impl FileAt {
    /// Takes a seekable file, as long as it is now.
    pub fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, size })
    }
}

impl ReadAt for FileAt {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

impl ReadAt for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = from.checked_add(buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(self.get(from..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Arc<T> {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buf, offset)
    }
}

/// Reads a part of something from its begin to its end.
pub struct Section<T> {
    inner: T,
    at: u64,
    end: u64,
}

impl<T: ReadAt> Section<T> {
    /// The `length` bytes of `inner` from `offset` on; fewer when it is shorter.
    pub fn new(inner: T, offset: u64, length: u64) -> Self {
        let end = offset.saturating_add(length).min(inner.size());
        Self { inner, at: offset.min(end), end }
    }
}

impl<T: ReadAt> Read for Section<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buf.len());
        self.inner.read_exact_at(&mut buf[..n], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_ends_where_it_should_and_a_read_past_the_end_fails() {
        let bytes = b"0123456789".to_vec();
        for (offset, length, expected) in [(2, 3, "234"), (8, 9, "89"), (20, 1, ""), (0, u64::MAX, "0123456789")] {
            let mut text = String::new();
            Section::new(bytes.clone(), offset, length).read_to_string(&mut text).unwrap();
            assert_eq!(text, expected);
        }
        assert!(bytes.read_exact_at(&mut [0; 4], 7).is_err());
    }
}
