//! Netlink: messages and their attributes as bytes, and the socket that carries them (netlink(7)).
//!
//! The kernel answers a request before the sending call returns, so replies are collected without waiting.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Flags of requests, `NLM_F_*` of linux/netlink.h.
pub mod flags {
    /// Fail when the object exists.
    pub const EXCL: u16 = 0x200;
    /// Make the object if it does not exist.
    pub const CREATE: u16 = 0x400;
    /// Add at the end of the list.
    pub const APPEND: u16 = 0x800;
    /// Give all objects, not one.
    pub const DUMP: u16 = 0x300;
    /// Replies to a dump that raced with a change are marked so.
    pub(super) const DUMP_INTR: u16 = 0x10;
    pub(super) const REQUEST: u16 = 0x1;
    pub(super) const ACK: u16 = 0x4;
}

const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER: usize = 16;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// What attributes are added to, one after the other.
pub trait WithAttributes: Sized {
    /// Where their bytes go.
    fn encoded(&mut self) -> &mut Vec<u8>;

    /// Adds an attribute of bytes.
    fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let to = self.encoded();
        // Nothing that ferry sends comes near 64 KiB.
        to.extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
        to.extend_from_slice(&kind.to_ne_bytes());
        to.extend_from_slice(value);
        to.resize(to.len().next_multiple_of(4), 0);
        self
    }

    /// Adds an attribute of text, NUL-terminated.
    fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// Adds a number in the host's byte order (rtnetlink).
    fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Adds a number in network byte order (nfnetlink).
    fn number_be(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Adds a nested attribute.
    fn nested(self, kind: u16, inside: Attributes) -> Self {
        self.bytes(kind | NESTED, inside.as_bytes())
    }
}

impl WithAttributes for Message {
    fn encoded(&mut self) -> &mut Vec<u8> {
        &mut self.body
    }
}

impl WithAttributes for Attributes {
    fn encoded(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

/// A message on its way to the kernel.
#[derive(Debug, Clone)]
pub struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Message {
    /// A message of a type, with the fixed part of its body. Its length must be a multiple of four.
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        Self { kind, flags, body: fixed.to_vec() }
    }

    fn encode(&self, sequence: u32, flags: u16) -> Vec<u8> {
        let length = HEADER + self.body.len();
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(&(length as u32).to_ne_bytes());
        bytes.extend_from_slice(&self.kind.to_ne_bytes());
        bytes.extend_from_slice(&(self.flags | flags).to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.body);
        bytes.resize(length.next_multiple_of(4), 0);
        bytes
    }
}

/// The attributes inside a nested one.
#[derive(Debug, Clone, Default)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins with a fixed structure, as some nested attributes do.
    pub fn after(fixed: &[u8]) -> Self {
        Self(fixed.to_vec())
    }

    /// The encoded bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The attributes in bytes from the kernel: type and value. Ends at the first that is malformed.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & TYPE_MASK, value))
    })
}

/// The value of the first attribute of a type.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// The text of an attribute, without its NUL.
pub fn as_text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// The number of an attribute in the host's byte order.
pub fn as_number(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.try_into().ok()?))
}

/// A message from the kernel.
#[derive(Debug)]
pub struct Reply {
    /// Its type.
    pub kind: u16,
    /// Its fixed part and its attributes.
    pub body: Vec<u8>,
}

/// A netlink socket. It stays in the network namespace in which it was opened.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// For links, addresses and routes.
    pub fn route() -> io::Result<Self> {
        Self::open(None)
    }

    /// For nftables.
    pub fn netfilter() -> io::Result<Self> {
        Self::open(Some(netlink::NETFILTER))
    }

    fn open(protocol: Option<rustix::net::Protocol>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Sends one request and waits for its success.
    pub fn request(&mut self, message: &Message) -> io::Result<()> {
        self.batch(std::slice::from_ref(message))
    }

    /// Sends requests in one piece; fails with the first error among the answers. For nftables the batch's frame is
    /// the caller's, and the kernel takes all of it or nothing.
    pub fn batch(&mut self, messages: &[Message]) -> io::Result<()> {
        let mut bytes = Vec::new();
        let first = self.sequence.wrapping_add(1);
        for message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            bytes.extend_from_slice(&message.encode(self.sequence, flags::REQUEST | flags::ACK));
        }
        self.send(&bytes)?;
        let mut failure = None;
        self.receive(|kind, _, sequence, body| {
            if kind == ERROR && sequence.wrapping_sub(first) < messages.len() as u32 && failure.is_none() {
                failure = error_of(body);
            }
            false
        })?;
        failure.map_or(Ok(()), Err)
    }

    /// Asks for all objects of a kind. A dump that raced with a change is asked for again.
    pub fn dump(&mut self, message: &Message) -> io::Result<Vec<Reply>> {
        for _ in 0..16 {
            self.sequence = self.sequence.wrapping_add(1);
            let sequence = self.sequence;
            self.send(&message.encode(sequence, flags::REQUEST | flags::DUMP))?;
            let (mut replies, mut failure, mut raced, mut done) = (Vec::new(), None, false, false);
            self.receive(|kind, flags, of, body| {
                if of != sequence {
                    return false;
                }
                raced |= flags & flags::DUMP_INTR != 0;
                match kind {
                    DONE | ERROR => {
                        failure = error_of(body);
                        done = true;
                        return true;
                    }
                    kind => replies.push(Reply { kind, body: body.to_vec() }),
                }
                false
            })?;
            match failure {
                Some(error) => return Err(error),
                None if raced => {}
                None if !done => return Err(io::ErrorKind::UnexpectedEof.into()),
                None => return Ok(replies),
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = rustix::net::sendto(&self.fd, bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Reads what has come until `last` says so of a message, or nothing more is there.
    fn receive(&self, mut last: impl FnMut(u16, u16, u32, &[u8]) -> bool) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = match rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((_, count)) => count,
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let mut rest = buffer.get(..count).ok_or(io::ErrorKind::InvalidData)?;
            while let Some((length, kind, flags, sequence)) = header(rest) {
                let body = rest.get(HEADER..length).ok_or(io::ErrorKind::InvalidData)?;
                if last(kind, flags, sequence, body) {
                    return Ok(());
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

fn header(bytes: &[u8]) -> Option<(usize, u16, u16, u32)> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let flags = u16::from_ne_bytes(bytes.get(6..8)?.try_into().ok()?);
    let sequence = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
    (length >= HEADER).then_some((length, kind, flags, sequence))
}

/// The error of an answer; its first number is zero for success.
fn error_of(body: &[u8]) -> Option<io::Error> {
    let code = i32::from_ne_bytes(body.get(..4)?.try_into().ok()?);
    (code < 0).then(|| io::Error::from_raw_os_error(-code))
}

/// Runs `work` with this thread inside the network namespace `netns`, and returns to its own. Sockets opened by `work`
/// stay in `netns`. An error from the way back must end the process: it would go on in the wrong namespace.
pub fn within<T>(netns: BorrowedFd<'_>, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let own = std::fs::File::open("/proc/thread-self/ns/net")?;
    move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))?;
    let result = work();
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Network))?;
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_are_written_and_broken_ones_end_the_list() {
        let inside = Attributes::new().text(1, "veth").number(2, 7);
        let message = Message::new(16, 0, &[0; 4]).bytes(3, b"abc").nested(18, inside);
        let encoded = message.encode(1, 0);
        assert_eq!(encoded.len() % 4, 0);
        let attrs: Vec<_> = attributes(&encoded[HEADER + 4..]).collect();
        assert_eq!(attrs[0], (3, &b"abc"[..]));
        assert_eq!(attrs[1].0, 18);
        assert_eq!(as_text(attribute(attrs[1].1, 1).unwrap()), "veth");
        assert_eq!(attribute(attrs[1].1, 2).and_then(as_number), Some(7));
        for broken in [&[1][..], &[0, 0, 0, 0], &[3, 0, 1, 0], &[200, 0, 1, 0, 5]] {
            assert_eq!(attributes(broken).count(), 0);
        }
    }
}
