//! Two ferries talking: messages in turn over a duplex stream.

use std::io::{Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::wire::{self, Hello, Message, PeerFailure, WireError};
use crate::base::Fault;
use crate::image::Platform;

/// An end that has said nothing since this long ago says that it is alive, so silence is at most twice as long.
const PULSE: Duration = Duration::from_millis(500);

/// One end of a conversation. While it works and has nothing to say, it tells the other end within a second that it is
/// alive: silence is a line that stalls.
pub struct Session<'s> {
    from: Box<dyn Read + Send + 's>,
    line: Arc<Line>,
    pulse: Option<JoinHandle<()>>,
}

/// The way to the other end, which the conversation and its pulse share.
struct Line {
    out: Mutex<Out>,
    ended: (Mutex<bool>, Condvar),
}

struct Out {
    to: Box<dyn Write + Send>,
    /// Bytes of messages sent, for reports.
    sent: u64,
    /// Whether anything was sent since the last pulse.
    spoke: bool,
}

impl Line {
    fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Beats until the conversation ends or the line does.
    fn pulse(&self) {
        let (ended, changed) = &self.ended;
        let mut over = ended.lock().unwrap_or_else(PoisonError::into_inner);
        while !*over {
            (over, _) = changed.wait_timeout(over, PULSE).unwrap_or_else(PoisonError::into_inner);
            let mut out = match self.out.try_lock() {
                _ if *over => return,
                Ok(out) => out,
                Err(TryLockError::Poisoned(out)) => out.into_inner(),
                // Something is being sent right now.
                Err(TryLockError::WouldBlock) => continue,
            };
            if std::mem::take(&mut out.spoke) {
                continue;
            }
            drop(over);
            if Message::Alive.write(&mut *out.to).and_then(|_| Ok(out.to.flush()?)).is_err() {
                // The conversation meets the same failure.
                return;
            }
            drop(out);
            over = ended.lock().unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<'s> Session<'s> {
    /// Begins on the near side: the agent's banner has been read.
    pub fn near(from: Box<dyn Read + Send + 's>, to: Box<dyn Write + Send>) -> Result<Self, WireError> {
        Self::greet(from, to)
    }

    /// Begins on the far side: says the banner.
    pub fn far(from: Box<dyn Read + Send + 's>, mut to: Box<dyn Write + Send>) -> Result<Self, WireError> {
        to.write_all(wire::BANNER)?;
        Self::greet(from, to)
    }

    fn greet(from: Box<dyn Read + Send + 's>, to: Box<dyn Write + Send>) -> Result<Self, WireError> {
        let out = Mutex::new(Out { to, sent: 0, spoke: false });
        let line = Arc::new(Line { out, ended: Default::default() });
        let mut session = Self { from, line: line.clone(), pulse: None };
        let (version, platform) = (env!("CARGO_PKG_VERSION").to_owned(), Platform::host().to_string());
        session.send(&Message::Hello(Hello { protocol: wire::PROTOCOL, version, platform }))?;
        match session.receive()? {
            Message::Hello(_) => {}
            other => return Err(turn(&other, "Hello")),
        }
        session.pulse = Some(std::thread::spawn(move || line.pulse()));
        Ok(session)
    }

    /// Sends a message at once. When the line breaks, the error is what the peer said last, if it said why.
    pub fn send(&mut self, message: &Message) -> Result<(), WireError> {
        self.queue(message)?;
        self.flush()
    }

    /// Sends a message with the next that is flushed.
    pub fn queue(&mut self, message: &Message) -> Result<(), WireError> {
        let mut out = self.line.out();
        let written = message.write(&mut *out.to);
        out.spoke = true;
        out.sent += *written.as_ref().unwrap_or(&0) as u64;
        drop(out);
        written.map(drop).map_err(|error| self.why(error))
    }

    /// Sends what is queued.
    pub fn flush(&mut self) -> Result<(), WireError> {
        let flushed = self.line.out().to.flush();
        flushed.map_err(|error| self.why(error.into()))
    }

    /// Why a line broke, from the side that may know more.
    fn why(&mut self, error: WireError) -> WireError {
        if matches!(&error, WireError::Io(source) if source.kind() != std::io::ErrorKind::TimedOut) {
            // What it sent before the line broke may still be there.
            for _ in 0..64 {
                match self.receive() {
                    Err(peer @ WireError::Peer(_)) => return peer,
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
        }
        error
    }

    /// The next message; a peer's failure is the error it is.
    pub fn receive(&mut self) -> Result<Message, WireError> {
        loop {
            match Message::read(&mut *self.from)? {
                Message::Alive => {}
                message => return Ok(message),
            }
        }
    }

    /// How many bytes were sent, those that only say that this end is alive not counted.
    pub fn sent(&self) -> u64 {
        self.line.out().sent
    }

    /// Tells the peer why this end gives up. It may have gone already.
    pub fn fail(&mut self, fault: &dyn Fault) {
        let text: String = fault.to_string().chars().take(2000).collect();
        let code = wire::code_of(fault.class());
        let _ = self.send(&Message::Error(PeerFailure { code, text }));
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        *self.line.ended.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.line.ended.1.notify_all();
        if let Some(pulse) = self.pulse.take() {
            // It does not panic, and a beat on a line that stalls has the line's own limit.
            let _ = pulse.join();
        }
    }
}

/// A message that is not due.
pub(super) fn turn(got: &Message, expected: &'static str) -> WireError {
    WireError::Turn { got: got.name(), expected }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use super::*;
    use crate::transfer::patience::Patient;

    #[test]
    fn an_end_that_works_for_long_is_waited_for_and_one_that_is_silent_is_not() {
        let limit = Duration::from_secs(2);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let far = move || Session::far(Box::new(theirs.try_clone().unwrap()), Box::new(theirs)).unwrap();
        let far = std::thread::spawn(far);
        let mut from = Patient::new(ours.try_clone().unwrap(), limit).unwrap();
        wire::await_banner(&mut from).unwrap();
        let mut near = Session::near(Box::new(from), Box::new(Patient::new(ours, limit).unwrap())).unwrap();
        let mut far = far.join().unwrap();
        let began = Instant::now();
        let worker = std::thread::spawn(move || {
            // Longer than the limit, as a load may take; only the pulse is heard meanwhile.
            let (never, wait) = (Mutex::new(()), Condvar::new());
            let _ = wait.wait_timeout(never.lock().unwrap(), Duration::from_secs(3)).unwrap();
            far.send(&Message::Found(vec![true; 8])).unwrap();
            far
        });
        assert_eq!(near.receive().unwrap(), Message::Found(vec![true; 8]));
        assert!(began.elapsed() > limit);
        let far = worker.join().unwrap();
        // An end that neither speaks nor goes away.
        let held = far.line.out.lock().unwrap();
        let error = near.receive().unwrap_err();
        assert!(error.to_string().contains("silent for 2 seconds"), "{error}");
        assert_eq!(error.class(), crate::base::Class::Peer);
        drop(held);
    }
}
