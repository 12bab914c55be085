//! Two ferries talking: messages in turn over a duplex stream.

use std::io::{Read, Write};

use super::wire::{self, Hello, Message, PeerFailure, WireError};
use crate::base::{BoxFault, Class, Fault};
use crate::image::Platform;

/// One end of a conversation.
pub struct Session<'s> {
    from: Box<dyn Read + Send + 's>,
    to: Box<dyn Write + Send + 's>,
    /// Bytes of messages sent, for reports.
    sent: u64,
}

impl<'s> Session<'s> {
    /// Begins on the near side: the agent's banner has been read.
    pub fn near(from: Box<dyn Read + Send + 's>, to: Box<dyn Write + Send + 's>) -> Result<Self, WireError> {
        Self { from, to, sent: 0 }.greet()
    }

    /// Begins on the far side: says the banner.
    pub fn far(from: Box<dyn Read + Send + 's>, mut to: Box<dyn Write + Send + 's>) -> Result<Self, WireError> {
        to.write_all(wire::BANNER)?;
        Self { from, to, sent: 0 }.greet()
    }

    fn greet(mut self) -> Result<Self, WireError> {
        let (version, platform) = (env!("CARGO_PKG_VERSION").to_owned(), Platform::host().to_string());
        self.send(&Message::Hello(Hello { protocol: wire::PROTOCOL, version, platform }))?;
        match self.receive()? {
            Message::Hello(_) => Ok(self),
            other => Err(turn(&other, "Hello")),
        }
    }

    /// Sends a message at once.
    pub fn send(&mut self, message: &Message) -> Result<(), WireError> {
        self.queue(message)?;
        Ok(self.to.flush()?)
    }

    /// Sends a message with the next that is flushed.
    pub fn queue(&mut self, message: &Message) -> Result<(), WireError> {
        self.sent += message.write(&mut *self.to)? as u64;
        Ok(())
    }

    /// Sends what is queued.
    pub fn flush(&mut self) -> Result<(), WireError> {
        Ok(self.to.flush()?)
    }

    /// The next message; a peer's failure is the error it is.
    pub fn receive(&mut self) -> Result<Message, WireError> {
        Message::read(&mut *self.from)
    }

    /// How many bytes were sent.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Tells the peer why this end gives up. It may have gone already.
    pub fn fail(&mut self, fault: &dyn Fault) {
        let text: String = fault.to_string().chars().take(2000).collect();
        let code = wire::code_of(fault.class());
        let _ = self.send(&Message::Error(PeerFailure { code, text }));
    }
}

/// A message that is not due.
pub(super) fn turn(got: &Message, expected: &'static str) -> WireError {
    WireError::Turn { got: got.name(), expected }
}

/// A failed conversation, from the side that may know more: when sending breaks, the peer has mostly said why.
pub(super) fn why(session: &mut Session<'_>, error: WireError) -> BoxFault {
    if matches!(error, WireError::Io(_)) {
        // What it sent before the line broke may still be there.
        for _ in 0..64 {
            match session.receive() {
                Err(peer @ WireError::Peer(_)) => return peer.into(),
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
    error.into()
}

/// Whether trying again may help: the line or the peer broke off, nothing was refused.
pub fn is_transient(fault: &dyn Fault) -> bool {
    fault.class() == Class::Peer
}
