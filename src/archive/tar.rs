//! The tar around an image: a walk from header to header that skips the contents, which in a file costs one small read
//! an entry. Only what image archives use is understood; layers are the business of [`crate::layer`].

use std::io::{self, Read, Write};
use std::sync::Arc;

use crate::base::caps;
use crate::base::read_at::ReadAt;

/// The block size of tar, in bytes.
pub const BLOCK: u64 = 512;

/// One entry of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name as it stands there.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Its content's size in bytes.
    pub size: u64,
    /// Where its content begins in the tar.
    pub offset: u64,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A hard link and the name of the entry it repeats.
    HardLink(Vec<u8>),
    /// Something no image archive needs: a device, a fifo, a sparse file.
    Other,
}

/// Why the walk ended.
#[derive(Debug)]
pub enum WalkError {
    /// Reading failed.
    Io(io::Error),
    /// The tar is malformed at this byte.
    Malformed(u64, String),
}

impl From<io::Error> for WalkError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A reader that can leave bytes out.
pub trait Forward: Read {
    /// Leaves out `count` bytes. Fails with [`io::ErrorKind::UnexpectedEof`] when there are not as many.
    fn skip(&mut self, count: u64) -> io::Result<()>;
}

/// Walks in a file by seeking.
pub struct FileWalk {
    file: Arc<dyn ReadAt>,
    at: u64,
}

impl FileWalk {
    /// Begins at the begin of `file`.
    pub fn new(file: Arc<dyn ReadAt>) -> Self {
        Self { file, at: 0 }
    }
}

impl Read for FileWalk {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = usize::try_from(self.file.size() - self.at).unwrap_or(usize::MAX).min(buf.len());
        self.file.read_exact_at(&mut buf[..n], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Forward for FileWalk {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        match self.at.checked_add(count) {
            Some(at) if at <= self.file.size() => self.at = at,
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        Ok(())
    }
}

/// Walks in a stream by reading past.
pub struct StreamWalk<R>(pub R);

impl<R: Read> Read for StreamWalk<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl<R: Read> Forward for StreamWalk<R> {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        if io::copy(&mut self.0.by_ref().take(count), &mut io::sink())? < count {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

/// A walk through a tar.
pub struct Walk<R> {
    reader: R,
    /// How many bytes of the tar are behind.
    at: u64,
    /// What is left of the current content.
    body: u64,
    /// And of its padding.
    padding: u64,
    members: usize,
    ended: bool,
}

impl<R: Forward> Walk<R> {
    /// Begins at the begin of `reader`.
    pub fn new(reader: R) -> Self {
        Self { reader, at: 0, body: 0, padding: 0, members: 0, ended: false }
    }

    /// The next entry; what is left of the one before is skipped. `None` at the end.
    pub fn next(&mut self) -> Result<Option<Member>, WalkError> {
        let mut long = Long::default();
        let begin = self.at;
        loop {
            if self.ended {
                return Ok(None);
            }
            let (body, padding) = (std::mem::take(&mut self.body), std::mem::take(&mut self.padding));
            self.skip(body)?;
            // The last entry's padding may be missing: some writers end there.
            self.skip(padding)?;
            let mut block = [0; BLOCK as usize];
            let header_at = self.at;
            if !self.read_block(&mut block)? || block == [0; BLOCK as usize] {
                if long != Long::default() {
                    return Err(WalkError::Malformed(begin, "the archive ends inside an entry's headers".into()));
                }
                self.ended = true;
                return Ok(None);
            }
            let malformed = |reason: &str| WalkError::Malformed(header_at, reason.to_owned());
            check_sum(&block).map_err(malformed)?;
            self.members += 1;
            if self.members > caps::ARCHIVE_ENTRIES {
                return Err(malformed(&format!("more than {} entries", caps::ARCHIVE_ENTRIES)));
            }
            let size = number(&block[124..136]).ok_or_else(|| malformed("the size is not a number"))?;
            let kind = block[156];
            if matches!(kind, b'x' | b'L' | b'K') {
                if size > caps::TAR_METADATA_BYTES {
                    return Err(malformed("an extended header is over its limit"));
                }
                self.set_body(size, header_at)?;
                let mut bytes = Vec::new();
                self.body_reader().read_to_end(&mut bytes)?;
                long.take(kind, bytes).map_err(malformed)?;
                continue;
            }
            if kind == b'g' {
                self.set_body(size, header_at)?;
                continue;
            }
            let size = long.size.unwrap_or(size);
            let target = long.link.clone().unwrap_or_else(|| text(&block[157..257]).to_vec());
            let kind = match kind {
                b'0' | 0 | b'7' if long.sparse => Kind::Other,
                b'0' | 0 | b'7' => Kind::File,
                b'1' => Kind::HardLink(target),
                b'2' => Kind::Symlink(target),
                b'5' => Kind::Directory,
                _ => Kind::Other,
            };
            // Links have no content, whatever their size says; so do the readers of docker and podman.
            let size = if matches!(kind, Kind::HardLink(_) | Kind::Symlink(_) | Kind::Directory) { 0 } else { size };
            self.set_body(size, header_at)?;
            let name = long.name.unwrap_or_else(|| ustar_name(&block));
            if name.len() > caps::PATH_BYTES || long.link.is_some_and(|link| link.len() > caps::PATH_BYTES) {
                return Err(malformed(&format!("a path is over {} bytes", caps::PATH_BYTES)));
            }
            return Ok(Some(Member { name, kind, size, offset: self.at }));
        }
    }

    /// Reads the content of the entry that [`Walk::next`] gave last, or what is left of it.
    pub fn body_reader(&mut self) -> Body<'_, R> {
        Body(self)
    }

    /// What follows: after the end, the rest of the stream.
    pub fn into_inner(self) -> R {
        self.reader
    }

    fn set_body(&mut self, size: u64, header_at: u64) -> Result<(), WalkError> {
        let padding = size.checked_next_multiple_of(BLOCK).map(|padded| padded - size);
        let padding = padding.filter(|padding| self.at.checked_add(size + padding).is_some());
        self.padding = padding.ok_or_else(|| WalkError::Malformed(header_at, "a size is out of range".into()))?;
        self.body = size;
        Ok(())
    }

    fn skip(&mut self, count: u64) -> Result<(), WalkError> {
        if count > 0 {
            self.reader.skip(count).map_err(|error| self.cut_short(error))?;
            self.at += count;
        }
        Ok(())
    }

    /// Reads a block; `false` when the stream ends before it.
    fn read_block(&mut self, block: &mut [u8; BLOCK as usize]) -> Result<bool, WalkError> {
        let mut filled = 0;
        while filled < block.len() {
            match self.reader.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(self.cut_short(io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.at += BLOCK;
        Ok(true)
    }

    fn cut_short(&self, error: io::Error) -> WalkError {
        if error.kind() == io::ErrorKind::UnexpectedEof && error.get_ref().is_none() {
            return WalkError::Malformed(self.at, "the archive is cut short here".into());
        }
        WalkError::Io(error)
    }
}

/// The content of one entry.
pub struct Body<'a, R>(&'a mut Walk<R>);

impl<R: Forward> Read for Body<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = usize::try_from(self.0.body).unwrap_or(usize::MAX).min(buf.len());
        if n == 0 {
            return Ok(0);
        }
        let n = self.0.reader.read(&mut buf[..n])?;
        if n == 0 {
            let reason = format!("the archive is cut short at byte {}", self.0.at);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason));
        }
        self.0.body -= n as u64;
        self.0.at += n as u64;
        Ok(n)
    }
}

/// What extended headers say about the entry after them.
#[derive(Default, PartialEq, Eq)]
struct Long {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

impl Long {
    fn take(&mut self, kind: u8, bytes: Vec<u8>) -> Result<(), &'static str> {
        match kind {
            b'L' => self.name = Some(text(&bytes).to_vec()),
            b'K' => self.link = Some(text(&bytes).to_vec()),
            _ => return self.take_pax(&bytes),
        }
        Ok(())
    }

    /// PAX records: `LENGTH KEY=VALUE\n`, the length counting all of it.
    fn take_pax(&mut self, mut bytes: &[u8]) -> Result<(), &'static str> {
        const MALFORMED: &str = "a PAX header is malformed";
        while !bytes.is_empty() {
            let space = bytes.iter().take(20).position(|b| *b == b' ').ok_or(MALFORMED)?;
            let length = std::str::from_utf8(&bytes[..space]).ok().and_then(|digits| digits.parse::<usize>().ok());
            let length = length.filter(|length| *length > space + 1 && *length <= bytes.len()).ok_or(MALFORMED)?;
            let record = bytes[space + 1..length].strip_suffix(b"\n").ok_or(MALFORMED)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or(MALFORMED)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.name = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => {
                    let digits = std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
                    self.size = Some(digits.ok_or(MALFORMED)?);
                }
                _ if key.starts_with(b"GNU.sparse.") => self.sparse = true,
                _ => {}
            }
            bytes = &bytes[length..];
        }
        Ok(())
    }
}

/// A field's bytes up to its first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

fn ustar_name(block: &[u8; BLOCK as usize]) -> Vec<u8> {
    let name = text(&block[..100]);
    // GNU's magic has other things where POSIX has the prefix.
    let prefix = if &block[257..263] == b"ustar\0" { text(&block[345..500]) } else { b"" };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

/// A header's number: octal, or base 256 where the first bit is set.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let mut value = u64::from(field[0] & 0x7f);
        for byte in &field[1..] {
            value = value.checked_mul(256)?.checked_add(u64::from(*byte))?;
        }
        return Some(value);
    }
    let digits = std::str::from_utf8(text(field)).ok()?.trim_matches(' ');
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

fn check_sum(block: &[u8; BLOCK as usize]) -> Result<(), &'static str> {
    let stated = number(&block[148..156]).ok_or("not a tar header")?;
    let counted = |byte: &dyn Fn(u8) -> i64| -> i64 {
        block.iter().enumerate().map(|(at, b)| if (148..156).contains(&at) { 32 } else { byte(*b) }).sum()
    };
    // Historic writers summed signed bytes.
    let unsigned = counted(&|b| i64::from(b));
    let signed = counted(&|b| i64::from(b.cast_signed()));
    if [unsigned, signed].iter().any(|sum| u64::try_from(*sum) == Ok(stated)) {
        Ok(())
    } else {
        Err("a header's checksum is wrong")
    }
}

/// Whether a stream that begins with `head` can be a tar.
pub fn looks_like(head: &[u8]) -> bool {
    <&[u8; BLOCK as usize]>::try_from(head).is_ok_and(|block| check_sum(block).is_ok())
}

/// Writes the header of a regular file: owned by root, readable by all, of 1970.
pub fn write_header(out: &mut dyn Write, path: &str, size: u64) -> io::Result<()> {
    /// The largest number that eleven octal digits hold.
    const OCTAL_MAX: u64 = 0o777_7777_7777;
    if size > OCTAL_MAX {
        let record = pax_record("size", &size.to_string());
        out.write_all(&header("pax", record.len() as u64, b'x')?)?;
        out.write_all(record.as_bytes())?;
        write_padding(out, record.len() as u64)?;
    }
    out.write_all(&header(path, if size > OCTAL_MAX { 0 } else { size }, b'0')?)
}

/// Fills the last block of `size` bytes.
pub fn write_padding(out: &mut dyn Write, size: u64) -> io::Result<()> {
    let used = (size % BLOCK) as usize;
    if used > 0 { out.write_all(&[0; BLOCK as usize][used..]) } else { Ok(()) }
}

/// A PAX record's length counts its own digits.
fn pax_record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n")
}

fn header(path: &str, size: u64, kind: u8) -> io::Result<[u8; BLOCK as usize]> {
    let mut block = [0; BLOCK as usize];
    // All names that ferry writes are shorter: `blobs/sha256/` and 64 digits.
    let name = block.get_mut(..path.len()).filter(|name| name.len() < 100).ok_or(io::ErrorKind::InvalidFilename)?;
    name.copy_from_slice(path.as_bytes());
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(100, "0000644");
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{size:011o}"));
    put(136, "00000000000");
    put(148, "        ");
    put(257, "ustar");
    put(263, "00");
    block[156] = kind;
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_nothing_beyond_its_end() {
        let mut bytes = Vec::new();
        for (path, size) in [("a", 0), ("blobs/sha256/x", 513), ("large", 9 << 30)] {
            write_header(&mut bytes, path, size).unwrap();
            if size < 1 << 20 {
                bytes.resize(bytes.len() + size as usize, 7);
                write_padding(&mut bytes, size).unwrap();
            }
        }
        let mut walk = Walk::new(StreamWalk(bytes.as_slice()));
        let mut seen = Vec::new();
        let error = loop {
            match walk.next() {
                Ok(Some(member)) => seen.push((String::from_utf8(member.name).unwrap(), member.size)),
                Ok(None) => panic!("the large file's content is not there"),
                Err(error) => break error,
            }
        };
        assert_eq!(seen, [("a".into(), 0), ("blobs/sha256/x".into(), 513), ("large".into(), 9 << 30)]);
        assert!(matches!(error, WalkError::Malformed(..)), "{error:?}");
    }
}
