//! A stream on its way to one host or several: written once into a nameless file, read from there by each transfer,
//! from wherever that one must go on.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::base::BoxFault;

#[derive(Debug, Default)]
struct State {
    written: u64,
    /// The whole length and the BLAKE3 hash, once all of it is there.
    complete: Option<(u64, blake3::Hash)>,
    failed: Option<String>,
}

/// A stream being written, and read at the same time.
#[derive(Debug, Clone)]
pub struct Outgoing {
    file: Arc<File>,
    state: Arc<(Mutex<State>, Condvar)>,
}

/// The writing end.
pub struct OutgoingWriter {
    stream: Outgoing,
    hasher: blake3::Hasher,
    done: bool,
}

/// The stream could not be written to its end.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Broken(String);

impl Outgoing {
    /// A stream kept in `file`, which is empty and nobody else's.
    pub fn new(file: File) -> (Self, OutgoingWriter) {
        let stream = Self { file: Arc::new(file), state: Arc::default() };
        (stream.clone(), OutgoingWriter { stream, hasher: blake3::Hasher::new(), done: false })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Reads what there is at `offset`, waiting for it; 0 at the end.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.lock();
        loop {
            if let Some(text) = &state.failed {
                return Err(io::Error::other(Broken(text.clone())));
            }
            if offset < state.written {
                break;
            }
            if state.complete.is_some() {
                return Ok(0);
            }
            state = self.state.1.wait(state).unwrap_or_else(|e| e.into_inner());
        }
        let there = usize::try_from(state.written - offset).unwrap_or(usize::MAX).min(buf.len());
        drop(state);
        self.file.read_at(&mut buf[..there], offset)
    }

    /// Fills `buf` from `offset` on, waiting for it; less only at the end.
    pub fn fill_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut got = 0;
        while got < buf.len() {
            match self.read_at(&mut buf[got..], offset + got as u64)? {
                0 => break,
                n => got += n,
            }
        }
        Ok(got)
    }

    /// The length of all of it, once it is known.
    pub fn length(&self) -> Option<u64> {
        self.lock().complete.map(|(length, _)| length)
    }

    /// The length and the hash of all of it, waiting for its end.
    pub fn whole(&self) -> io::Result<(u64, blake3::Hash)> {
        let mut state = self.lock();
        loop {
            match (&state.failed, state.complete) {
                (Some(text), _) => return Err(io::Error::other(Broken(text.clone()))),
                (None, Some(whole)) => return Ok(whole),
                (None, None) => state = self.state.1.wait(state).unwrap_or_else(|e| e.into_inner()),
            }
        }
    }

    /// The hash of the first `length` bytes; `None` when there are fewer.
    pub fn hash_of(&self, length: u64) -> io::Result<Option<blake3::Hash>> {
        let (mut hasher, mut buf, mut at) = (blake3::Hasher::new(), vec![0; 256 << 10], 0);
        while at < length {
            let want = usize::try_from(length - at).unwrap_or(usize::MAX).min(buf.len());
            match self.read_at(&mut buf[..want], at)? {
                0 => return Ok(None),
                n => {
                    hasher.update(&buf[..n]);
                    at += n as u64;
                }
            }
        }
        Ok(Some(hasher.finalize()))
    }
}

impl OutgoingWriter {
    /// All of the stream is written.
    pub fn complete(mut self) {
        let mut state = self.stream.lock();
        state.complete = Some((state.written, self.hasher.finalize()));
        drop(state);
        self.done = true;
        self.stream.state.1.notify_all();
    }

    /// The stream cannot be written to its end; its readers are told why.
    pub fn fail(mut self, fault: &BoxFault) {
        self.stream.lock().failed = Some(fault.to_string());
        self.done = true;
        self.stream.state.1.notify_all();
    }
}

impl Write for OutgoingWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let at = self.stream.lock().written;
        let n = self.stream.file.write_at(buf, at)?;
        self.hasher.update(&buf[..n]);
        self.stream.lock().written += n as u64;
        self.stream.state.1.notify_all();
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for OutgoingWriter {
    fn drop(&mut self) {
        if !self.done {
            self.stream.lock().failed = Some("the stream was given up".to_owned());
            self.stream.state.1.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_readers_follow_one_writer_from_anywhere() {
        let (stream, mut writer) = Outgoing::new(tempfile::tempfile().unwrap());
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| (i >> 3) as u8).collect();
        std::thread::scope(|scope| {
            for start in [0, 1, 999_999, 1_000_000] {
                let (stream, bytes) = (stream.clone(), &bytes);
                scope.spawn(move || {
                    let (mut got, mut buf) = (Vec::new(), vec![0; 10_007]);
                    while let n @ 1.. = stream.read_at(&mut buf, (start + got.len()) as u64).unwrap() {
                        got.extend_from_slice(&buf[..n]);
                    }
                    assert!(got == bytes[start..]);
                });
            }
            for piece in bytes.chunks(9_999) {
                writer.write_all(piece).unwrap();
            }
            writer.complete();
        });
        assert_eq!(stream.whole().unwrap(), (1_000_000, blake3::hash(&bytes)));
        assert_eq!(stream.hash_of(77).unwrap(), Some(blake3::hash(&bytes[..77])));
        let (stream, writer) = Outgoing::new(tempfile::tempfile().unwrap());
        drop(writer);
        assert!(stream.read_at(&mut [0], 0).is_err());
    }
}
