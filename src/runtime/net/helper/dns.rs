//! DNS messages (RFC 1035), as far as a resolver reads and writes them that answers for a few names and passes on the rest.

use std::net::Ipv4Addr;

/// The fixed part of a message.
const HEADER: usize = 12;
/// Seconds an answer may be kept; docker's.
const TTL: u32 = 600;
/// A name in a message, in bytes (RFC 1035, 3.1).
const NAME: usize = 255;
/// Answers to one question; more would not fit 512 bytes.
const ANSWERS: usize = 25;

pub(super) const TYPE_A: u16 = 1;
pub(super) const TYPE_PTR: u16 = 12;
const TYPE_ANY: u16 = 255;
const CLASS_IN: u16 = 1;

/// How an answer ends (RFC 1035, 4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Fine = 0,
    ServerFailure = 2,
    NoSuchName = 3,
}

/// The one question of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    /// Lower case, without the final dot.
    pub name: String,
    pub kind: u16,
    pub class: u16,
    /// Where the question ends in the message.
    end: usize,
}

impl Question {
    /// Whether it asks for addresses of the internet.
    pub fn is_for_addresses(&self) -> bool {
        self.class == CLASS_IN && matches!(self.kind, TYPE_A | TYPE_ANY)
    }

    /// The address whose name is asked for: `2.0.17.172.in-addr.arpa`.
    pub fn reverse(&self) -> Option<Ipv4Addr> {
        let digits = self.name.strip_suffix(".in-addr.arpa").filter(|_| self.kind == TYPE_PTR)?;
        let [d, c, b, a] = digits.parse::<Ipv4Addr>().ok()?.octets();
        Some(Ipv4Addr::new(a, b, c, d))
    }
}

fn number(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?))
}

/// The ID of a message; none when it is too short to be one.
pub(super) fn id(message: &[u8]) -> Option<u16> {
    (message.len() >= HEADER).then(|| number(message, 0)).flatten()
}

/// Whether a message is an answer.
pub(super) fn is_answer(message: &[u8]) -> bool {
    message.get(2).is_some_and(|flags| flags & 0x80 != 0)
}

/// Reads a query with one question. A name is letters in any bytes here; only plain ones can be a container's.
pub(super) fn question(message: &[u8]) -> Option<Question> {
    let opcode = message.get(2)? >> 3 & 0xf;
    if is_answer(message) || opcode != 0 || number(message, 4)? != 1 {
        return None;
    }
    let mut at = HEADER;
    let mut name = String::new();
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        match length {
            0 => break,
            // Questions have nothing before them that a pointer could lead to.
            64.. => return None,
            _ => {}
        }
        if !name.is_empty() {
            name.push('.');
        }
        for byte in message.get(at..at + length)? {
            // What is no plain character, a dot within a label among them, is no container's name.
            let plain = byte.is_ascii_graphic() && *byte != b'.';
            name.push(if plain { char::from(byte.to_ascii_lowercase()) } else { '\u{fffd}' });
        }
        at += length;
        if at - HEADER > NAME {
            return None;
        }
    }
    Some(Question { name, kind: number(message, at)?, class: number(message, at + 2)?, end: at + 4 })
}

/// An answer to `query`, so far without records.
fn begin(query: &[u8], question: &Question, outcome: Outcome, records: usize) -> Vec<u8> {
    let mut answer = query.get(..question.end).unwrap_or_default().to_vec();
    let wanted = answer.get(2).copied().unwrap_or_default() & 0x01;
    // Answer, recursion desired as asked, recursion available; one question, so many answers, nothing more.
    let header = [0x80 | wanted, 0x80 | outcome as u8, 0, 1, 0, records as u8, 0, 0, 0, 0];
    if let Some(place) = answer.get_mut(2..HEADER) {
        place.copy_from_slice(&header);
    }
    answer
}

fn record(answer: &mut Vec<u8>, kind: u16, data: &[u8]) {
    // The name is the question's.
    answer.extend_from_slice(&[0xc0, HEADER as u8]);
    answer.extend_from_slice(&kind.to_be_bytes());
    answer.extend_from_slice(&CLASS_IN.to_be_bytes());
    answer.extend_from_slice(&TTL.to_be_bytes());
    answer.extend_from_slice(&(data.len() as u16).to_be_bytes());
    answer.extend_from_slice(data);
}

/// An answer without records.
pub(super) fn empty(query: &[u8], question: &Question, outcome: Outcome) -> Vec<u8> {
    begin(query, question, outcome, 0)
}

/// An answer of addresses.
pub(super) fn addresses(query: &[u8], question: &Question, addresses: &[Ipv4Addr]) -> Vec<u8> {
    let addresses = addresses.get(..ANSWERS).unwrap_or(addresses);
    let mut answer = begin(query, question, Outcome::Fine, addresses.len());
    for address in addresses {
        record(&mut answer, TYPE_A, &address.octets());
    }
    answer
}

/// An answer of a name.
pub(super) fn pointer(query: &[u8], question: &Question, name: &str) -> Vec<u8> {
    let mut data = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty() && label.len() < 64) {
        data.push(label.len() as u8);
        data.extend_from_slice(label.as_bytes());
    }
    data.push(0);
    if data.len() > NAME {
        return empty(query, question, Outcome::NoSuchName);
    }
    let mut answer = begin(query, question, Outcome::Fine, 1);
    record(&mut answer, TYPE_PTR, &data);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            message.push(label.len() as u8);
            message.extend_from_slice(label.as_bytes());
        }
        message.extend_from_slice(&[0]);
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&[0, 1]);
        message
    }

    #[test]
    fn questions_are_read_and_answered() {
        let asked = query("Web.MyNet", TYPE_A);
        let question = question(&asked).unwrap();
        assert_eq!((question.name.as_str(), question.is_for_addresses()), ("web.mynet", true));
        let answer = addresses(&asked, &question, &[Ipv4Addr::new(172, 18, 0, 2)]);
        assert_eq!(answer[..12], [0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(answer[asked.len()..], [0xc0, 12, 0, 1, 0, 1, 0, 0, 2, 88, 0, 4, 172, 18, 0, 2]);
        assert!(is_answer(&answer) && id(&answer) == Some(0xabcd));
    }

    #[test]
    fn addresses_are_turned_back_into_names() {
        let asked = query("2.0.18.172.in-addr.arpa", TYPE_PTR);
        let question = question(&asked).unwrap();
        assert_eq!(question.reverse(), Some(Ipv4Addr::new(172, 18, 0, 2)));
        let answer = pointer(&asked, &question, "web.mynet");
        assert!(answer.ends_with(b"\x03web\x05mynet\0"));
    }

    #[test]
    fn what_is_no_plain_query_is_not_taken_for_one() {
        let good = query("a", TYPE_A);
        for cut in 0..good.len() {
            assert_eq!(question(&good[..cut]), None);
        }
        let changed = |at: usize, to: u8| {
            let mut message = good.clone();
            message[at] = to;
            question(&message)
        };
        // An answer, another operation, no question, two questions, a compressed name.
        for (at, to) in [(2, 0x81), (2, 0x28), (5, 0), (5, 2), (12, 0xc0)] {
            assert_eq!(changed(at, to), None, "{at} {to}");
        }
        assert!(question(&query(&vec!["a".repeat(63); 5].join("."), 1)).is_none());
        assert_eq!(changed(13, b'.').unwrap().name, "\u{fffd}");
    }

    proptest! {
        #[test]
        fn no_message_makes_the_reader_fail(message in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some(question) = question(&message) {
                let answer = addresses(&message, &question, &[Ipv4Addr::LOCALHOST; 40]);
                prop_assert!(answer.len() <= HEADER + NAME + 4 + ANSWERS * 16);
                question.reverse();
                pointer(&message, &question, "x");
            }
        }
    }
}
