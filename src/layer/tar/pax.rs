//! Metadata that comes before an entry: PAX records and GNU long names.

use super::entry::Time;
use super::sparse::PaxSparse;

/// What PAX records and GNU long names say of the entry after them.
#[derive(Debug, Default)]
pub(super) struct Extended {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<i64>,
    pub gid: Option<i64>,
    pub mtime: Option<Time>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: PaxSparse,
}

impl Extended {
    /// Adds one extension block's data.
    pub fn take(&mut self, type_flag: u8, bytes: Vec<u8>) -> Result<(), &'static str> {
        match type_flag {
            b'L' => self.path = Some(until_nul(bytes)),
            b'K' => self.link = Some(until_nul(bytes)),
            b'x' | b'X' => {
                // Records replace what an earlier extended header of this entry said (as Go reads them).
                let long = (self.path.take(), self.link.take());
                *self = Self { path: long.0, link: long.1, ..Self::default() };
                return self.records(&bytes);
            }
            // Docker and Go give global records no effect on entries.
            _ => {}
        }
        Ok(())
    }

    fn records(&mut self, mut bytes: &[u8]) -> Result<(), &'static str> {
        while !bytes.is_empty() {
            let (key, value, rest) = record(bytes).ok_or("a PAX record is malformed")?;
            bytes = rest;
            self.record(key, value)?;
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let name = match key {
            b"path" => {
                if value.contains(&0) {
                    return Err("a path has a NUL");
                }
                // An empty value takes the header's own back.
                self.path = (!value.is_empty()).then(|| value.to_vec());
                return Ok(());
            }
            b"linkpath" => {
                if value.contains(&0) {
                    return Err("a path has a NUL");
                }
                self.link = (!value.is_empty()).then(|| value.to_vec());
                return Ok(());
            }
            name => std::str::from_utf8(name).unwrap_or_default(),
        };
        if let Some(attribute) = key.strip_prefix(b"SCHILY.xattr.") {
            if attribute.contains(&0) {
                return Err("an extended attribute's name has a NUL");
            }
            self.xattrs.push((attribute.to_vec(), value.to_vec()));
            return Ok(());
        }
        if name.starts_with("GNU.sparse.") {
            return self.sparse.record(name, value);
        }
        if value.is_empty() {
            return Ok(());
        }
        match name {
            "size" => self.size = Some(unsigned(value).ok_or("a PAX size is not a number")?),
            "uid" => self.uid = Some(signed(value).ok_or("a PAX user ID is not a number")?),
            "gid" => self.gid = Some(signed(value).ok_or("a PAX group ID is not a number")?),
            "mtime" => self.mtime = Some(time(value).ok_or("a PAX time is not a number")?),
            _ => {}
        }
        Ok(())
    }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(super::header::text(&bytes).len());
    bytes
}

/// `LENGTH KEY=VALUE\n`, the length in decimal and counting all of it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|b| *b == b' ')?;
    let length = usize::try_from(unsigned(&bytes[..space])?).ok()?;
    let body = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|b| *b == b'=')?;
    (equals > 0).then(|| (&body[..equals], &body[equals + 1..], &bytes[length..]))
}

/// A decimal number of digits alone.
pub(super) fn unsigned(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn signed(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with an optional fraction; what is finer than a nanosecond is cut.
fn time(text: &[u8]) -> Option<Time> {
    let (whole, fraction) = match text.iter().position(|b| *b == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, [].as_slice()),
    };
    let seconds = signed(whole)?;
    let mut nanoseconds = 0_u32;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    for place in 0..9 {
        let digit = fraction.get(place).map_or(0, |d| u32::from(d - b'0'));
        nanoseconds = nanoseconds * 10 + digit;
    }
    // "-1.5" is a second and a half before the epoch: -2 s and half a second.
    if whole.first() == Some(&b'-') && nanoseconds > 0 {
        return Some(Time { seconds: seconds.checked_sub(1)?, nanoseconds: 1_000_000_000 - nanoseconds });
    }
    Some(Time { seconds, nanoseconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_go_reads_them() {
        for (text, expected) in [
            (b"6 k=v\n".as_slice(), Some((b"k".as_slice(), b"v".as_slice()))),
            (b"6 k=v", None),
            (b"7 k=v\n", None),
            (b"5 =v\n", None),
            (b"99999999999999999999 k=v\n", None),
            (b"9 k=a=b\nc\n", None),
            (b"11 k=a=b\nc\n", Some((b"k", b"a=b\nc"))),
        ] {
            assert_eq!(record(text).map(|(k, v, _)| (k, v)), expected, "{text:?}");
        }
        for (text, seconds, nanoseconds) in [
            ("1700000000.123456789", 1_700_000_000, 123_456_789),
            ("-1.500000001", -2, 499_999_999),
            ("-5", -5, 0),
            ("0.1234567899", 0, 123_456_789),
        ] {
            assert_eq!(time(text.as_bytes()), Some(Time { seconds, nanoseconds }), "{text}");
        }
        assert_eq!(time(b"1.x"), None);
    }
}
