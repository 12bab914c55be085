//! The verifying reader: what a digest and a size promise is what comes out, or an error does.

use std::io::{self, Read};

use super::digest::{Digest, Hasher};

/// What a stream turned out to be instead of what was promised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// The stream ended early.
    #[error("{expected} is cut short: {got} of {size} bytes")]
    Short {
        /// The digest promised.
        expected: Digest,
        /// The size promised, in bytes.
        size: u64,
        /// The bytes there were.
        got: u64,
    },
    /// The stream went on past its promised size.
    #[error("{expected} is longer than the {size} bytes it should have")]
    Long {
        /// The digest promised.
        expected: Digest,
        /// The size promised, in bytes.
        size: u64,
    },
    /// The bytes are other bytes.
    #[error("{expected} has other content: its digest is {got}")]
    Wrong {
        /// The digest promised.
        expected: Digest,
        /// The digest found.
        got: Digest,
    },
}

/// Reads a stream that must have a given digest and, when known, a given size.
///
/// The last byte is handed out only together with the knowledge that the whole is right: the read that would report
/// the end of the stream fails with [`io::ErrorKind::InvalidData`] carrying a [`Mismatch`] when it is not. A caller
/// must read to the end before it uses anything it was given.
pub struct VerifyingReader<R> {
    inner: R,
    expected: Digest,
    size: Option<u64>,
    got: u64,
    hasher: Option<Hasher>,
}

impl<R: Read> VerifyingReader<R> {
    /// Expects `inner` to be the bytes of `expected`, `size` bytes of them when that is known.
    pub fn new(inner: R, expected: Digest, size: Option<u64>) -> Self {
        Self { inner, expected, size, got: 0, hasher: Some(Hasher::new()) }
    }

    fn end(&mut self) -> Result<(), Mismatch> {
        let Some(hasher) = self.hasher.take() else { return Ok(()) };
        if let Some(size) = self.size.filter(|size| self.got < *size) {
            return Err(Mismatch::Short { expected: self.expected, size, got: self.got });
        }
        let got = hasher.finish();
        if got != self.expected {
            return Err(Mismatch::Wrong { expected: self.expected, got });
        }
        Ok(())
    }
}

impl<R: Read> Read for VerifyingReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let n = self.inner.read(buf)?;
        if n == 0 {
            self.end().map_err(|mismatch| io::Error::new(io::ErrorKind::InvalidData, mismatch))?;
            return Ok(0);
        }
        self.got += n as u64;
        if let Some(size) = self.size.filter(|size| self.got > *size) {
            let mismatch = Mismatch::Long { expected: self.expected, size };
            return Err(io::Error::new(io::ErrorKind::InvalidData, mismatch));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buf[..n]);
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_long_and_wrong_streams_all_fail() {
        let good = b"some content".as_slice();
        let digest = Digest::of(good);
        let read = |bytes: &[u8], size| {
            let mut out = Vec::new();
            VerifyingReader::new(bytes, digest, size).read_to_end(&mut out).map(|_| out)
        };
        assert_eq!(read(good, Some(12)).unwrap(), good);
        assert_eq!(read(good, None).unwrap(), good);
        for (bytes, size) in [
            (&good[..11], Some(12)),
            (&good[..11], None),
            (b"some content and more".as_slice(), Some(12)),
            (b"some_content".as_slice(), Some(12)),
            (b"".as_slice(), Some(12)),
        ] {
            assert_eq!(read(bytes, size).unwrap_err().kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
    }
}
