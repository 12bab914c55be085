//! Reading whole pieces of a stream, and giving one that is put together.

use std::io::{self, Read};

/// Reads until the buffer is full or the stream ends; how much was read.
pub fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        match reader.read(&mut buffer[have..]) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(have)
}

/// What is ready to be read of a stream that is put together: bytes, and zeros after them.
#[derive(Debug, Default)]
pub struct Ready {
    /// To give first; to be added to only while none of them is given.
    pub bytes: Vec<u8>,
    used: usize,
    /// How many zeros come after them.
    pub zeros: u64,
}

impl Ready {
    /// Nothing is ready any more.
    pub fn clear(&mut self) {
        self.bytes.clear();
        (self.used, self.zeros) = (0, 0);
    }

    /// Gives what is ready, as much as `buf` takes at once; 0 when nothing is left, or `buf` takes nothing.
    pub fn read(&mut self, buf: &mut [u8]) -> usize {
        if self.used < self.bytes.len() {
            let n = buf.len().min(self.bytes.len() - self.used);
            buf[..n].copy_from_slice(&self.bytes[self.used..][..n]);
            self.used += n;
            return n;
        }
        let n = (buf.len() as u64).min(self.zeros) as usize;
        buf[..n].fill(0);
        self.zeros -= n as u64;
        n
    }
}
