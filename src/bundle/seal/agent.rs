//! The two questions ferry asks an ssh agent: which keys, and sign this. Protocol: draft-miller-ssh-agent.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::error::SealError;
use super::sign::{put_string, take_string};

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
/// The longest answer that is read, as OpenSSH has it, in bytes.
const ANSWER_MAX: usize = 256 << 10;
/// A person may have to touch or confirm something.
const PATIENCE: Duration = Duration::from_secs(120);

/// Has the agent at `socket` sign `data` with the key whose public part is `key` (wire format). Gives the signature in
/// wire format.
pub fn sign(socket: &Path, key: &[u8], data: &[u8]) -> Result<Vec<u8>, SealError> {
    let broken = |reason: &str| SealError::Agent { socket: socket.to_owned(), reason: reason.to_owned() };
    let io = |source| SealError::AgentIo { socket: socket.to_owned(), source };
    let mut stream = UnixStream::connect(socket).map_err(io)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(io)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(io)?;
    let mut ask = |request: &[u8]| -> Result<Vec<u8>, SealError> {
        let mut message = (request.len() as u32).to_be_bytes().to_vec();
        message.extend_from_slice(request);
        stream.write_all(&message).map_err(io)?;
        let mut len = [0; 4];
        stream.read_exact(&mut len).map_err(io)?;
        let len = u32::from_be_bytes(len) as usize;
        if !(1..=ANSWER_MAX).contains(&len) {
            return Err(broken("its answer has an impossible length"));
        }
        let mut answer = vec![0; len];
        stream.read_exact(&mut answer).map_err(io)?;
        Ok(answer)
    };
    let answer = ask(&[REQUEST_IDENTITIES])?;
    let held = match answer.split_first() {
        Some((&IDENTITIES_ANSWER, rest)) => holds(rest, key).ok_or_else(|| broken("its list of keys is malformed"))?,
        _ => return Err(broken("it does not list its keys")),
    };
    if !held {
        return Err(broken("it does not hold the key: add it with ssh-add"));
    }
    let mut request = vec![SIGN_REQUEST];
    put_string(&mut request, key);
    put_string(&mut request, data);
    request.extend_from_slice(&0_u32.to_be_bytes());
    let answer = ask(&request)?;
    match answer.split_first() {
        Some((&SIGN_RESPONSE, mut rest)) => take_string(&mut rest)
            .filter(|_| rest.is_empty())
            .map(<[u8]>::to_vec)
            .ok_or_else(|| broken("its signature is malformed")),
        _ => Err(broken("it refused to sign")),
    }
}

fn holds(mut list: &[u8], key: &[u8]) -> Option<bool> {
    let count = u32::from_be_bytes(*list.split_off(..4)?.first_chunk()?);
    let mut held = false;
    for _ in 0..count {
        held |= take_string(&mut list)? == key;
        take_string(&mut list)?;
    }
    Some(held)
}
