//! Pipes and sockets that are given up when nothing has moved for so long.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

/// What a blocking pipe that is ready takes without blocking (POSIX's PIPE_BUF on Linux), in bytes.
const PIECE: usize = 4096;

/// One end of a line, each read and write of which fails with [`io::ErrorKind::TimedOut`] when it would take longer than
/// the limit.
pub struct Patient<F> {
    end: F,
    limit: Duration,
    /// Whether the descriptor is somebody else's too: it stays a blocking one.
    shared: bool,
    /// Bytes that have moved.
    moved: u64,
    /// How much longer the first bytes may take, and how many those are.
    first: (Duration, u64),
}

impl<F: AsFd> Patient<F> {
    /// An end that is this process's alone; it is made non-blocking.
    pub fn new(end: F, limit: Duration) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&end)?;
        rustix::fs::fcntl_setfl(&end, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Self { end, limit, shared: false, moved: 0, first: (Duration::ZERO, 0) })
    }

    /// An end that others have open as well, as standard input and output are. It must have no buffer of its own.
    pub fn shared(end: F, limit: Duration) -> Self {
        Self { end, limit, shared: true, moved: 0, first: (Duration::ZERO, 0) }
    }

    /// The same, but until more than `bytes` have moved each wait may take `longer`.
    pub fn at_first(self, longer: Duration, bytes: u64) -> Self {
        Self { first: (longer, bytes), ..self }
    }

    fn wait(&self, until: PollFlags) -> io::Result<()> {
        let (longer, bytes) = self.first;
        let limit = if self.moved <= bytes { self.limit + longer } else { self.limit };
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Longer than any limit that makes sense: the end of time will do.
            let left = left.try_into().unwrap_or(rustix::time::Timespec { tv_sec: i64::from(i32::MAX), tv_nsec: 0 });
            match poll(&mut [PollFd::new(&self.end, until)], Some(&left)) {
                Ok(0) => {
                    let text = format!("the other side has been silent for {} seconds", limit.as_secs());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                }
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn would_block<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

impl<F: AsFd + Read> Read for Patient<F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.shared {
            self.wait(PollFlags::IN)?;
        }
        loop {
            let result = self.end.read(buf);
            if !would_block(&result) {
                return result.inspect(|n| self.moved += *n as u64);
            }
            self.wait(PollFlags::IN)?;
        }
    }
}

impl<F: AsFd + Write> Write for Patient<F> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let most = if self.shared { PIECE } else { usize::MAX };
        if self.shared {
            self.wait(PollFlags::OUT)?;
        }
        loop {
            let result = self.end.write(&buf[..buf.len().min(most)]);
            if !would_block(&result) {
                return result.inspect(|n| self.moved += *n as u64);
            }
            self.wait(PollFlags::OUT)?;
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.end.flush()
    }
}

impl<F: AsFd> AsFd for Patient<F> {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.end.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_on_which_nothing_moves_is_given_up_and_a_slow_one_is_not() {
        let limit = Duration::from_millis(200);
        for shared in [false, true] {
            let patient = |end| if shared { Patient::shared(end, limit) } else { Patient::new(end, limit).unwrap() };
            let (from, mut to) = io::pipe().unwrap();
            let mut from = if shared { Patient::shared(from, limit) } else { Patient::new(from, limit).unwrap() };
            to.write_all(b"x").unwrap();
            let mut buf = [0; 8];
            assert_eq!(from.read(&mut buf).unwrap(), 1);
            assert_eq!(from.read(&mut buf).unwrap_err().kind(), io::ErrorKind::TimedOut);
            drop(to);
            assert_eq!(from.read(&mut buf).unwrap(), 0);

            let (mut from, to) = io::pipe().unwrap();
            let mut to = patient(to);
            let error = to.write_all(&vec![0; 1 << 20]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(error.to_string().contains("silent"), "{error}");
            // A reader that takes a little now and then is waited for.
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    let mut all = Vec::new();
                    from.read_to_end(&mut all).unwrap();
                });
                to.write_all(&vec![0; 1 << 20]).unwrap();
                drop(to);
            });
        }
    }
}
