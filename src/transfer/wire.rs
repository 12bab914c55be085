//! Messages of the transfer protocol (`docs/protocol/transfer.md`): framing, kinds, caps.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use crate::base::{Class, Digest, Fault, caps};
use crate::bundle::index::{ID_LENGTH, ShortId};
use crate::image::{DiffId, ImageId};

/// What an agent says first.
pub const BANNER: &[u8; 16] = b"\0ferry-agent/1\r\n";
/// How much a login script may print before it, in bytes.
pub const NOISE_BYTES: usize = 64 << 10;
/// The longest message, in bytes, kind and payload.
pub const MESSAGE_BYTES: usize = 16 << 20;
/// The longest piece of a stream in one message, in bytes: what a line that breaks can lose.
pub const DATA_BYTES: usize = 32 << 10;
/// The most contents that may be asked for at once.
pub const CONTENTS: usize = (MESSAGE_BYTES - 1) / ID_LENGTH;
/// The most plans that a probe may name.
pub const PROBE_PLANS: usize = 64;
/// A probe of the line: so many Data messages, each answered.
pub const PROBE_PIECES: usize = 16;
/// The bytes of each.
pub const PROBE_PIECE: usize = 64 << 10;
/// The version this file writes.
pub const PROTOCOL: u32 = 1;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // each kind is specified in docs/protocol/transfer.md
pub enum Message {
    Hello(Hello),
    Error(PeerFailure),
    Offer(Offer),
    Have(Have),
    Hint(Hint),
    Contents(Vec<ShortId>),
    Found(Vec<bool>),
    Stream(Stream),
    Resume(Resume),
    Data(Vec<u8>),
    End(End),
    Done(Done),
    List(List),
    Probe(Probe),
    Alive,
}

/// Who speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The highest protocol version it knows.
    pub protocol: u32,
    /// ferry's version.
    pub version: String,
    /// `os/architecture`.
    pub platform: String,
}

/// Why the peer ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerFailure {
    /// The exit code that the peer would end with.
    pub code: u8,
    /// Its one line.
    pub text: String,
}

/// An image that is offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedImage {
    /// Its names, as the sender has them.
    pub names: Vec<String>,
    /// Its ID.
    pub id: ImageId,
    /// Its layers, base first.
    pub layers: Vec<DiffId>,
}

/// What the sender would send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// In the sender's order.
    pub images: Vec<OfferedImage>,
}

/// What the receiver has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Have {
    /// Layers, of those offered or hinted.
    pub layers: Vec<DiffId>,
    /// Free room in its store, in bytes.
    pub free: u64,
    /// How many layers the receiver has besides, in which contents may be asked for.
    #[serde(default)]
    pub others: u64,
    /// Who gets the images, as `--to` names it; ferry when it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// Layers that the sender has and could build upon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hint {
    /// Newest first.
    pub layers: Vec<DiffId>,
}

/// The line is measured, unless the receiver holds a part of one of these plans' streams.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Asked for; in the answer those that are there.
    #[serde(default)]
    pub plans: Vec<Digest>,
}

/// A stream begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Names everything that decides the stream's bytes.
    pub plan: Digest,
    /// Its length in bytes, when the sender knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Nothing follows: the sender only asks how much of it is there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ask: bool,
}

/// Where to go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// Bytes of the stream that the receiver holds.
    pub offset: u64,
    /// Their BLAKE3 hash, 64 hex digits.
    pub hash: String,
}

/// The stream is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// In bytes.
    pub length: u64,
    /// The BLAKE3 hash of all of it, 64 hex digits.
    pub hash: String,
}

/// All is verified, durable and visible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The images' names, or IDs of those without.
    pub loaded: Vec<String>,
}

/// A fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// What the near side asks for.
    pub images: Vec<String>,
}

/// A message that must not be.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The line broke, or the peer went away.
    #[error("the connection ended: {0}")]
    Io(#[from] io::Error),
    /// No agent answered.
    #[error("no ferry agent answered{}{}", if .0.is_empty() { "" } else { ": " }, .0)]
    NoBanner(String),
    /// Something else answered, and does not end.
    #[error("no ferry agent answered, but {NOISE_BYTES} bytes of something else came")]
    Noise,
    /// Over a limit.
    #[error("the peer sent a message of {0} bytes; {MESSAGE_BYTES} is the limit")]
    TooLong(usize),
    /// Not of its kind's shape.
    #[error("the peer sent a malformed {0} message")]
    Malformed(&'static str),
    /// A kind that this version does not know.
    #[error("the peer sent a message of unknown kind {0}")]
    Kind(u8),
    /// Not what must come now.
    #[error("the peer sent {got} where {expected} was due")]
    Turn {
        /// What came.
        got: &'static str,
        /// What was due.
        expected: &'static str,
    },
    /// The peer has failed and says why.
    #[error("the far side: {}", .0.text)]
    Peer(PeerFailure),
}

/// The classes that cross the wire, by number: what is full, missing or refused there has the same way out as here.
const CODES: [(Class, u8); 9] = [
    (Class::NotFound, 3),
    (Class::Conflict, 4),
    (Class::Malformed, 5),
    (Class::Integrity, 6),
    (Class::Refused, 7),
    (Class::NoSpace, 8),
    (Class::Peer, 9),
    (Class::Unsupported, 10),
    (Class::Interrupted, 130),
];

/// The number of a class; 1 for those that mean nothing to a peer.
pub(super) fn code_of(class: Class) -> u8 {
    CODES.iter().find(|(known, _)| *known == class).map_or(1, |(_, code)| *code)
}

impl WireError {
    /// Whether the peer says that it has failed.
    pub fn is_peers(&self) -> bool {
        matches!(self, Self::Peer(_))
    }
}

impl Fault for WireError {
    fn class(&self) -> Class {
        match self {
            Self::Peer(failure) => {
                let known = CODES.iter().find(|(_, code)| *code == failure.code);
                known.map_or(Class::System, |(class, _)| *class)
            }
            _ => Class::Peer,
        }
    }
}

impl Message {
    fn kind(&self) -> (u8, &'static str) {
        match self {
            Self::Hello(_) => (1, "Hello"),
            Self::Error(_) => (2, "Error"),
            Self::Offer(_) => (3, "Offer"),
            Self::Have(_) => (4, "Have"),
            Self::Hint(_) => (5, "Hint"),
            Self::Contents(_) => (6, "Contents"),
            Self::Found(_) => (7, "Found"),
            Self::Stream(_) => (8, "Stream"),
            Self::Resume(_) => (9, "Resume"),
            Self::Data(_) => (10, "Data"),
            Self::End(_) => (11, "End"),
            Self::Done(_) => (12, "Done"),
            Self::List(_) => (13, "List"),
            Self::Probe(_) => (14, "Probe"),
            Self::Alive => (15, "Alive"),
        }
    }

    /// The kind's name, for messages to users.
    pub fn name(&self) -> &'static str {
        self.kind().1
    }

    fn payload(&self) -> Result<Vec<u8>, serde_json::Error> {
        match self {
            Self::Hello(m) => serde_json::to_vec(m),
            Self::Error(m) => serde_json::to_vec(m),
            Self::Offer(m) => serde_json::to_vec(m),
            Self::Have(m) => serde_json::to_vec(m),
            Self::Hint(m) => serde_json::to_vec(m),
            Self::Data(bytes) => Ok(bytes.clone()),
            Self::Contents(ids) => Ok(ids.iter().flat_map(|id| &id.0[..ID_LENGTH]).copied().collect()),
            Self::Found(found) => Ok(pack(found)),
            Self::Probe(m) => serde_json::to_vec(m),
            Self::Stream(m) => serde_json::to_vec(m),
            Self::Resume(m) => serde_json::to_vec(m),
            Self::End(m) => serde_json::to_vec(m),
            Self::Done(m) => serde_json::to_vec(m),
            Self::List(m) => serde_json::to_vec(m),
            Self::Alive => Ok(Vec::new()),
        }
    }

    /// Reads a message from its kind and payload.
    pub fn parse(kind: u8, payload: &[u8]) -> Result<Self, WireError> {
        fn json<'a, T: Deserialize<'a>>(payload: &'a [u8], name: &'static str) -> Result<T, WireError> {
            serde_json::from_slice(payload).map_err(|_| WireError::Malformed(name))
        }
        Ok(match kind {
            1 => Self::Hello(json(payload, "Hello")?),
            2 => Self::Error(json(payload, "Error")?),
            3 => {
                let offer: Offer = json(payload, "Offer")?;
                let small = |i: &OfferedImage| i.layers.len() <= caps::LAYERS && i.names.len() <= caps::NAMES;
                if offer.images.len() > caps::IMAGES || !offer.images.iter().all(small) {
                    return Err(WireError::Malformed("Offer"));
                }
                Self::Offer(offer)
            }
            4 => Self::Have(json(payload, "Have")?),
            5 => Self::Hint(json(payload, "Hint")?),
            6 => {
                let (ids, rest) = payload.as_chunks::<ID_LENGTH>();
                if !rest.is_empty() {
                    return Err(WireError::Malformed("Contents"));
                }
                Self::Contents(ids.iter().map(short_id).collect())
            }
            7 => Self::Found(payload.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1)).collect()),
            8 => Self::Stream(json(payload, "Stream")?),
            9 => Self::Resume(json(payload, "Resume")?),
            10 => Self::Data(payload.to_vec()),
            11 => Self::End(json(payload, "End")?),
            12 => Self::Done(json(payload, "Done")?),
            13 => Self::List(json(payload, "List")?),
            14 => {
                let probe: Probe = json(payload, "Probe")?;
                if probe.plans.len() > PROBE_PLANS {
                    return Err(WireError::Malformed("Probe"));
                }
                Self::Probe(probe)
            }
            15 if payload.is_empty() => Self::Alive,
            15 => return Err(WireError::Malformed("Alive")),
            kind => return Err(WireError::Kind(kind)),
        })
    }

    /// How many bytes it takes on the line.
    pub fn length(&self) -> Result<u64, WireError> {
        Ok(self.write(&mut io::sink())? as u64)
    }

    /// Writes the message and says how many bytes it took; the caller flushes.
    pub fn write(&self, out: &mut dyn Write) -> Result<usize, WireError> {
        let payload = self.payload().map_err(io::Error::from)?;
        let length = payload.len() + 1;
        if length > MESSAGE_BYTES {
            return Err(WireError::TooLong(length));
        }
        let mut head = [0; 5];
        // In range: the limit is far below u32's.
        head[..4].copy_from_slice(&(length as u32).to_le_bytes());
        head[4] = self.kind().0;
        out.write_all(&head)?;
        out.write_all(&payload)?;
        Ok(length + 4)
    }

    /// Reads the next message. An `Error` message is returned as the error it is.
    pub fn read(from: &mut dyn Read) -> Result<Self, WireError> {
        let mut head = [0; 5];
        from.read_exact(&mut head)?;
        let [a, b, c, d, kind] = head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let Some(size) = length.checked_sub(1) else { return Err(WireError::Malformed("empty")) };
        if length > MESSAGE_BYTES {
            return Err(WireError::TooLong(length));
        }
        // Grows with what arrives, not with what is announced.
        let mut payload = Vec::new();
        if from.take(size as u64).read_to_end(&mut payload)? < size {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        match Self::parse(kind, &payload)? {
            Self::Error(failure) => Err(WireError::Peer(failure)),
            message => Ok(message),
        }
    }
}

fn short_id(bytes: &[u8; ID_LENGTH]) -> ShortId {
    let mut id = [0; 32];
    id[..ID_LENGTH].copy_from_slice(bytes);
    ShortId(id)
}

/// One bit each, the first in the lowest of the first byte.
fn pack(found: &[bool]) -> Vec<u8> {
    let byte = |eight: &[bool]| eight.iter().enumerate().fold(0, |byte, (at, is)| byte | u8::from(*is) << at);
    found.chunks(8).map(byte).collect()
}

/// Reads until the agent's banner has come; what came before it is a login script's.
pub fn await_banner(from: &mut dyn Read) -> Result<(), WireError> {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(BANNER) {
        if seen.len() >= NOISE_BYTES {
            return Err(WireError::Noise);
        }
        if from.read(&mut byte)? == 0 {
            let text = String::from_utf8_lossy(&seen);
            let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
            return Err(WireError::NoBanner(last.chars().filter(|c| !c.is_control()).take(200).collect()));
        }
        seen.push(byte[0]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire_and_damaged_ones_are_errors() {
        let id = Digest::of(b"x");
        let messages = [
            Message::Hello(Hello { protocol: 1, version: "0.1.0".into(), platform: "linux/amd64".into() }),
            Message::Offer(Offer {
                images: vec![OfferedImage { names: vec!["a:1".into()], id: ImageId(id), layers: vec![DiffId(id)] }],
            }),
            Message::Data(vec![0; 1000]),
            Message::Stream(Stream { plan: id, length: Some(7), ask: true }),
            Message::Alive,
            Message::End(End { length: 7, hash: "00".into() }),
        ];
        for message in messages {
            let mut bytes = Vec::new();
            message.write(&mut bytes).unwrap();
            assert_eq!(Message::read(&mut bytes.as_slice()).unwrap(), message);
            for cut in 0..bytes.len() {
                assert!(Message::read(&mut &bytes[..cut]).is_err(), "{} cut at {cut}", message.name());
            }
        }
        assert!(matches!(Message::read(&mut [255; 9].as_slice()), Err(WireError::TooLong(_))));
        assert!(matches!(Message::read(&mut [0; 9].as_slice()), Err(WireError::Malformed(_))));
    }

    #[test]
    fn a_login_scripts_noise_is_skipped_and_endless_noise_is_not() {
        let noisy = [b"Welcome!\n\0ferry-agent/".as_slice(), BANNER, b"rest"].concat();
        let mut from = noisy.as_slice();
        await_banner(&mut from).unwrap();
        assert_eq!(from, b"rest");
        let error = await_banner(&mut b"sh: ferry: not found\n".as_slice()).unwrap_err();
        assert_eq!(error.to_string(), "no ferry agent answered: sh: ferry: not found");
        assert!(matches!(await_banner(&mut io::repeat(b'x')), Err(WireError::Noise)));
    }
}
