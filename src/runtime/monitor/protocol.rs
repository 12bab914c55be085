//! What commands and a monitor say to each other: frames of a kind (one byte), a length (four bytes, little-endian)
//! and so many bytes. Both ends are the same binary of the same user, over a socket in a directory of mode 0700.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use super::super::net::EndpointRequest;

/// The most bytes of one frame.
pub const FRAME_BYTES: usize = 64 << 10;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// To the monitor: pass on input and output as [`Attach`] says. No answer.
    Attach = b'A',
    /// To the monitor: bytes for standard input.
    Input = b'I',
    /// To the monitor: standard input has ended.
    InputEnd = b'E',
    /// To the monitor: this client goes on purpose; standard input stays open.
    Detach = b'D',
    /// To the monitor: the terminal's size, rows and columns of two bytes each.
    Resize = b'W',
    /// To the monitor: send a signal, see [`Kill`]. Answered by `Done` or `Failed`.
    Kill = b'K',
    /// To the monitor: freeze. Answered.
    Pause = b'P',
    /// To the monitor: thaw. Answered.
    Unpause = b'U',
    /// To the monitor: read the settings again. Answered.
    Reload = b'N',
    /// To the monitor: connect to a network, see [`Connect`]. Answered.
    Connect = b'C',
    /// To the monitor: disconnect from the network of this name. Answered.
    Disconnect = b'G',
    /// To the monitor: say when the program ends.
    Wait = b'Q',
    /// To a new monitor: how to attach has been said, start. No answer but `Started` or `Failed`.
    Begin = b'B',
    /// From the monitor: the program runs, see [`Started`].
    Started = b'S',
    /// From the monitor: bytes of standard output.
    Output = b'O',
    /// From the monitor: bytes of standard error.
    ErrorOutput = b'R',
    /// From the monitor: the program has ended, see [`Exit`].
    Exit = b'X',
    /// From the monitor: done.
    Done = b'Y',
    /// From the monitor: not done, see [`Failure`].
    Failed = b'F',
}

impl Kind {
    fn parse(byte: u8) -> Option<Self> {
        const ALL: [Kind; 19] = [
            Kind::Attach,
            Kind::Input,
            Kind::InputEnd,
            Kind::Detach,
            Kind::Resize,
            Kind::Kill,
            Kind::Pause,
            Kind::Unpause,
            Kind::Reload,
            Kind::Connect,
            Kind::Disconnect,
            Kind::Wait,
            Kind::Begin,
            Kind::Started,
            Kind::Output,
            Kind::ErrorOutput,
            Kind::Exit,
            Kind::Done,
            Kind::Failed,
        ];
        ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// What a client wants of input and output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attach {
    /// It sends standard input.
    pub stdin: bool,
    /// It wants standard output.
    pub stdout: bool,
    /// It wants standard error.
    pub stderr: bool,
}

/// A signal to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kill {
    /// Its number.
    pub signal: i32,
    /// Whether the container is meant to end by it: no policy starts it again then.
    pub end: bool,
    /// Whether it is ended to be started again at once: it stays although it is `--rm`.
    pub keep: bool,
}

/// A network to connect to, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connect {
    /// Its name.
    pub network: String,
    /// What is asked for there.
    pub endpoint: EndpointRequest,
}

/// A container's program runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Started {
    /// What the network could not give, or had to change on the host: for the user, once.
    pub notices: Vec<String>,
}

impl Started {
    /// Reads a payload. A command that was added to a container has none.
    pub fn parse(payload: &[u8]) -> Self {
        serde_json::from_slice(payload).unwrap_or_default()
    }
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its exit code, 128 and the signal for a killed one.
    pub code: i32,
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For a program that could not be started, the exit code docker has for it.
    pub code: u8,
    /// For people.
    pub message: String,
}

/// One frame's bytes.
pub fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + 5);
    bytes.push(kind as u8);
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(payload);
    bytes
}

/// One frame of a value.
pub fn frame_of(kind: Kind, value: &impl Serialize) -> Vec<u8> {
    // Plain structures of numbers and strings always have a JSON form.
    frame(kind, &serde_json::to_vec(value).unwrap_or_default())
}

/// Sends one frame.
pub fn send(to: &mut impl Write, kind: Kind, payload: &[u8]) -> io::Result<()> {
    to.write_all(&frame(kind, payload))
}

/// Receives one frame; `None` at the end.
pub fn receive(from: &mut impl Read) -> io::Result<Option<(Kind, Vec<u8>)>> {
    let mut head = [0; 5];
    match from.read(&mut head[..1])? {
        0 => return Ok(None),
        _ => from.read_exact(&mut head[1..])?,
    }
    let (kind, length) = parse_head(head)?;
    let mut payload = vec![0; length];
    from.read_exact(&mut payload)?;
    Ok(Some((kind, payload)))
}

fn parse_head(head: [u8; 5]) -> io::Result<(Kind, usize)> {
    let [kind, length @ ..] = head;
    let length = u32::from_le_bytes(length) as usize;
    match Kind::parse(kind) {
        Some(kind) if length <= FRAME_BYTES => Ok((kind, length)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Takes the first frame off what has been received so far.
pub fn take(buffer: &mut Vec<u8>) -> io::Result<Option<(Kind, Vec<u8>)>> {
    let Some(head) = buffer.first_chunk::<5>() else { return Ok(None) };
    let (kind, length) = parse_head(*head)?;
    if buffer.len() < 5 + length {
        return Ok(None);
    }
    let payload = buffer.drain(..5 + length).skip(5).collect();
    Ok(Some((kind, payload)))
}
