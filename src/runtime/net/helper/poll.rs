//! Waiting for many sockets at once: epoll(7), level-triggered.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

/// What a socket is waited for under. Never used twice, so that a late event of a closed socket is nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Token(u64);

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Interest {
    pub read: bool,
    pub write: bool,
}

impl Interest {
    pub const READ: Self = Self { read: true, write: false };

    pub fn is_none(self) -> bool {
        !self.read && !self.write
    }

    fn flags(self) -> EventFlags {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, self.read);
        flags.set(EventFlags::OUT, self.write);
        flags
    }
}

pub(super) struct Poll {
    epoll: OwnedFd,
    next: u64,
    events: Vec<Event>,
}

impl Poll {
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, next: 0, events: Vec::with_capacity(64) })
    }

    /// A token of its own, for a socket that is added later.
    pub fn token(&mut self) -> Token {
        self.next += 1;
        Token(self.next)
    }

    pub fn add(&mut self, source: impl AsFd, interest: Interest) -> io::Result<Token> {
        let token = self.token();
        self.add_as(source, token, interest)?;
        Ok(token)
    }

    pub fn add_as(&self, source: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, source, EventData::new_u64(token.0), interest.flags())?)
    }

    pub fn modify(&self, source: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, source, EventData::new_u64(token.0), interest.flags())?)
    }

    /// Closing a socket removes it as well.
    pub fn remove(&self, source: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, source)?)
    }

    /// The sockets that are ready, failed or closed. None when the time is over.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Vec<Token>> {
        let timeout = timeout.and_then(|timeout| timeout.try_into().ok());
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.events.iter().map(|event| Token(event.data.u64())).collect())
    }
}
