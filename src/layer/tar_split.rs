//! Docker's `tar-split.json.gz`: what is left of a layer's tar when its files are on disk (github.com/vbatts/tar-split,
//! `tar/storage`). One JSON object a line: `type` 1 stands for a file of the tree, named, with its size and the CRC-64
//! of its content; `type` 2 is raw bytes in base64.

use std::borrow::Cow;
use std::io::{self, BufRead, BufReader, Read, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use serde::{Deserialize, Serialize};

use crate::base::caps;

/// Raw bytes in one entry, at most: readers hold an entry in memory.
const SEGMENT: usize = 255 << 10;
/// A line of the file, at most, in bytes. Docker writes one entry for all raw bytes between two files.
const LINE: u64 = 256 << 20;
/// The gzip level: the file is small beside its layer, and a load waits for it.
const LEVEL: Compression = Compression::new(1);

/// CRC-64 as Go's `crc64.ISO` computes it.
pub type Crc64 = crc_fast::Digest;

/// A CRC that has seen nothing.
pub fn crc64() -> Crc64 {
    Crc64::new(crc_fast::CrcAlgorithm::Crc64GoIso)
}

/// One piece of the tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Raw bytes.
    Segment(Vec<u8>),
    /// What the file of this name holds. Size 0: no bytes, and the name may be that of anything.
    File {
        /// As the tar has it.
        name: Vec<u8>,
        /// In bytes.
        size: u64,
        /// The CRC-64 of the content.
        crc: Option<[u8; 8]>,
    },
}

#[derive(Serialize)]
struct FileOut<'a> {
    r#type: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_raw: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    payload: Option<String>,
    position: u64,
}

#[derive(Deserialize)]
struct Line<'a> {
    r#type: u8,
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    name_raw: Option<Cow<'a, str>>,
    #[serde(default)]
    size: i64,
    #[serde(borrow, default)]
    payload: Option<Cow<'a, str>>,
}

/// Writes the file, compressed.
pub struct Writer<W: Write> {
    out: flate2::write::GzEncoder<W>,
    segment: Vec<u8>,
    position: u64,
    line: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    pub fn new(out: W) -> Self {
        // No name and no time in its header: the same layer gives the same bytes.
        let out = flate2::GzBuilder::new().write(out, LEVEL);
        Self { out, segment: Vec::new(), position: 0, line: Vec::new() }
    }

    /// Raw bytes; a segment may come in several pieces.
    pub fn segment(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let n = bytes.len().min(SEGMENT - self.segment.len());
            self.segment.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            if self.segment.len() == SEGMENT {
                self.flush_segment()?;
            }
        }
        Ok(())
    }

    fn flush_segment(&mut self) -> io::Result<()> {
        if self.segment.is_empty() {
            return Ok(());
        }
        // Written by hand: this is most of the file, and base64 needs no escapes.
        self.line.clear();
        self.line.extend_from_slice(br#"{"type":2,"payload":""#);
        let start = self.line.len();
        self.line.resize(start + self.segment.len().div_ceil(3) * 4, 0);
        STANDARD.encode_slice(&self.segment, &mut self.line[start..]).map_err(io::Error::other)?;
        writeln!(self.line, r#"","position":{}}}"#, self.position)?;
        self.position += 1;
        self.segment.clear();
        self.out.write_all(&self.line)
    }

    /// A file of the tree stands here.
    pub fn file(&mut self, name: &[u8], size: u64, crc: Option<[u8; 8]>) -> io::Result<()> {
        self.flush_segment()?;
        let text = std::str::from_utf8(name).ok();
        let out = FileOut {
            r#type: 1,
            name: text,
            name_raw: text.is_none().then(|| STANDARD.encode(name)),
            size: (size > 0).then_some(size),
            payload: crc.map(|crc| STANDARD.encode(crc)),
            position: self.position,
        };
        self.position += 1;
        self.line.clear();
        serde_json::to_writer(&mut self.line, &out)?;
        self.line.push(b'\n');
        self.out.write_all(&self.line)
    }

    /// Completes the file.
    pub fn finish(mut self) -> io::Result<W> {
        self.flush_segment()?;
        self.out.finish()
    }
}

/// Reads the file, compressed.
pub struct Reader<R: Read> {
    input: BufReader<flate2::bufread::MultiGzDecoder<BufReader<R>>>,
    line: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Begins to read.
    pub fn new(input: R) -> Self {
        let decoder = flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(64 << 10, input));
        Self { input: BufReader::with_capacity(128 << 10, decoder), line: Vec::new() }
    }

    /// The next piece; `None` at the end. Fails with [`io::ErrorKind::InvalidData`] on what is none.
    pub fn next_piece(&mut self) -> io::Result<Option<Piece>> {
        let malformed = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("tar-split: {what}"));
        self.line.clear();
        let n = (&mut self.input).take(LINE).read_until(b'\n', &mut self.line)?;
        if n == 0 {
            return Ok(None);
        }
        if self.line.last() != Some(&b'\n') && n as u64 == LINE {
            return Err(malformed("a line is too long"));
        }
        let line: Line<'_> = serde_json::from_slice(&self.line)?;
        let payload = line.payload.as_deref().map(|text| STANDARD.decode(text)).transpose();
        let payload = payload.map_err(|_| malformed("a payload is not base64"))?;
        match line.r#type {
            2 => Ok(Some(Piece::Segment(payload.unwrap_or_default()))),
            1 => {
                let name = match (line.name, line.name_raw) {
                    (_, Some(raw)) => STANDARD.decode(&*raw).map_err(|_| malformed("a name is not base64"))?,
                    (Some(name), None) => name.into_owned().into_bytes(),
                    (None, None) => Vec::new(),
                };
                if name.len() > caps::PATH_BYTES {
                    return Err(malformed("a name is too long"));
                }
                let size = u64::try_from(line.size).map_err(|_| malformed("a size is negative"))?;
                let crc = payload.filter(|crc| !crc.is_empty()).map(TryInto::try_into).transpose();
                let crc = crc.map_err(|_| malformed("a checksum is not of 8 bytes"))?;
                Ok(Some(Piece::File { name, size, crc }))
            }
            _ => Err(malformed("an entry is of unknown type")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_looks_like_dockers() {
        let mut crc = crc64();
        crc.update(b"123456789");
        // The check value of Go's crc64.ISO table for this text.
        assert_eq!(crc.finalize(), 0xb909_56c7_75a4_1001);
        let mut out = Writer::new(Vec::new());
        out.segment(b"head").unwrap();
        out.segment(b"er").unwrap();
        out.file(b"a/<b>", 3, Some([1, 2, 3, 4, 5, 6, 7, 8])).unwrap();
        out.file(b"bad-\xff", 0, None).unwrap();
        out.segment(&vec![7; SEGMENT + 1]).unwrap();
        let bytes = out.finish().unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(bytes.as_slice()).read_to_string(&mut text).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], r#"{"type":2,"payload":"aGVhZGVy","position":0}"#);
        assert_eq!(lines[1], r#"{"type":1,"name":"a/<b>","size":3,"payload":"AQIDBAUGBwg=","position":1}"#);
        assert_eq!(lines[2], r#"{"type":1,"name_raw":"YmFkLf8=","payload":null,"position":2}"#);
        assert_eq!(lines.len(), 5);
        let mut reader = Reader::new(bytes.as_slice());
        let mut pieces = Vec::new();
        while let Some(piece) = reader.next_piece().unwrap() {
            pieces.push(piece);
        }
        assert_eq!(pieces[0], Piece::Segment(b"header".to_vec()));
        assert_eq!(pieces[2], Piece::File { name: b"bad-\xff".to_vec(), size: 0, crc: None });
        assert_eq!(pieces[4], Piece::Segment(vec![7]));
        for cut in 0..bytes.len() {
            let mut reader = Reader::new(&bytes[..cut]);
            while let Ok(Some(_)) = reader.next_piece() {}
        }
    }
}
