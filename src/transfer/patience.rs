//! Pipes and sockets that are given up when nothing has moved for so long.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat};
use rustix::net::{SendFlags, send};

/// What a blocking pipe that is ready takes without blocking (POSIX's PIPE_BUF on Linux), in bytes.
const PIECE: usize = 4096;

/// One end of a line, each read and write of which fails with [`io::ErrorKind::TimedOut`] when it would take longer than
/// the limit.
pub struct Patient<F> {
    end: F,
    limit: Duration,
    manner: Manner,
    /// Bytes that have moved.
    moved: u64,
    /// How much longer the first bytes may take, and how many those are.
    first: (Duration, u64),
}

/// How an end is kept from blocking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// It does not block.
    Own,
    /// It is a socket that others have open as well: each call says that it must not block.
    Socket,
    /// It blocks, for others have it open as well: it is asked first, and given no more than it takes when it is ready.
    Blocking,
}

impl<F: AsFd> Patient<F> {
    /// An end that is this process's alone; it is made non-blocking.
    pub fn new(end: F, limit: Duration) -> io::Result<Self> {
        fcntl_setfl(&end, fcntl_getfl(&end)? | OFlags::NONBLOCK)?;
        Ok(Self::of(end, limit, Manner::Own))
    }

    fn of(end: F, limit: Duration, manner: Manner) -> Self {
        Self { end, limit, manner, moved: 0, first: (Duration::ZERO, 0) }
    }
}

impl Patient<File> {
    /// An end that others have open as well, as standard input and output are: it stays a blocking one for them.
    pub fn shared(end: impl Into<OwnedFd>, limit: Duration) -> Self {
        let end: OwnedFd = end.into();
        let kind = fstat(&end).map(|stat| FileType::from_raw_mode(stat.st_mode));
        match kind {
            Ok(FileType::Socket) => Self::of(end.into(), limit, Manner::Socket),
            // Opened anew a pipe is this process's alone. Another user's cannot be.
            Ok(FileType::Fifo) => match opened_anew(&end) {
                Ok(own) => Self::of(own, limit, Manner::Own),
                Err(_) => Self::of(end.into(), limit, Manner::Blocking),
            },
            _ => Self::of(end.into(), limit, Manner::Blocking),
        }
    }
}

fn opened_anew(pipe: &OwnedFd) -> io::Result<File> {
    let mode = fcntl_getfl(pipe)? & OFlags::RWMODE;
    File::options()
        .read(mode != OFlags::WRONLY)
        .write(mode != OFlags::RDONLY)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(format!("/proc/self/fd/{}", pipe.as_raw_fd()))
}

impl<F: AsFd> Patient<F> {
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
        if self.manner != Manner::Own {
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
        if self.manner == Manner::Blocking {
            self.wait(PollFlags::OUT)?;
        }
        loop {
            let result = match self.manner {
                Manner::Own => self.end.write(buf),
                Manner::Socket => {
                    send(&self.end, buf, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map_err(io::Error::from)
                }
                Manner::Blocking => self.end.write(&buf[..buf.len().min(PIECE)]),
            };
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
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_line_on_which_nothing_moves_is_given_up_and_a_slow_one_is_not() {
        let limit = Duration::from_millis(200);
        let pipe = || io::pipe().map(|(from, to)| (OwnedFd::from(from), OwnedFd::from(to))).unwrap();
        let socket = || UnixStream::pair().map(|(from, to)| (OwnedFd::from(from), OwnedFd::from(to))).unwrap();
        let own = |end: OwnedFd| Patient::new(File::from(end), limit).unwrap();
        let shared = |end: OwnedFd| Patient::shared(end, limit);
        let blocking = |end: OwnedFd| Patient::of(File::from(end), limit, Manner::Blocking);
        type Line<'a> = (&'a dyn Fn() -> (OwnedFd, OwnedFd), &'a dyn Fn(OwnedFd) -> Patient<File>, Manner, bool);
        let lines: [Line<'_>; 5] = [
            (&pipe, &own, Manner::Own, false),
            (&socket, &own, Manner::Own, false),
            (&pipe, &shared, Manner::Own, true),
            (&socket, &shared, Manner::Socket, true),
            (&pipe, &blocking, Manner::Blocking, true),
        ];
        for (line, patient, manner, others) in lines {
            let (from, to) = line();
            let (mut from, mut to) = (patient(from), File::from(to));
            assert_eq!(from.manner, manner);
            to.write_all(b"x").unwrap();
            let mut buf = [0; 8];
            assert_eq!(from.read(&mut buf).unwrap(), 1);
            assert_eq!(from.read(&mut buf).unwrap_err().kind(), io::ErrorKind::TimedOut);
            drop(to);
            assert_eq!(from.read(&mut buf).unwrap(), 0);

            let (from, to) = line();
            let (mut from, kept) = (File::from(from), to.try_clone().unwrap());
            let mut to = patient(to);
            let error = to.write_all(&vec![0; 1 << 20]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(error.to_string().contains("silent"), "{error}");
            // Whoever else has it open is not disturbed.
            assert_eq!(fcntl_getfl(&kept).unwrap().contains(OFlags::NONBLOCK), !others, "{manner:?}");
            drop(kept);
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
