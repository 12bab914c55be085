//! Layers and contents of a bundle as streams.

use std::io::{self, Read};

use super::error::BundleError;
use super::pieces::Pieces;
use super::recipe::Piece;
use super::source::BundleSource;
use crate::base::read::Ready;

/// A layer's tar, put together as it is read.
pub(super) struct LayerReader<'a> {
    pieces: Pieces<'a>,
    /// Raw bytes and zeros to give first.
    ready: Ready,
    /// The content to give after those.
    content: ContentReader<'a>,
}

impl<'a> LayerReader<'a> {
    pub fn new(source: &'a BundleSource, pieces: Pieces<'a>) -> Self {
        Self { pieces, ready: Ready::default(), content: ContentReader::new(source) }
    }

    /// Gets the next piece ready; false at the end.
    fn advance(&mut self) -> Result<bool, BundleError> {
        self.ready.clear();
        // Headers and padding are small: several go into one read.
        while self.ready.bytes.len() < 4096 {
            match self.pieces.next()? {
                None => return Ok(!self.ready.bytes.is_empty()),
                Some(Piece::Bytes(bytes)) => self.ready.bytes.extend_from_slice(bytes),
                Some(Piece::Zeros(count)) if count <= 512 => {
                    self.ready.bytes.resize(self.ready.bytes.len() + count as usize, 0);
                }
                Some(Piece::Zeros(count)) => {
                    self.ready.zeros = count;
                    break;
                }
                Some(Piece::Content { number }) => {
                    self.content.give(number);
                    break;
                }
            }
        }
        Ok(true)
    }
}

impl Read for LayerReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut got = 0;
        while got < buf.len() {
            let room = &mut buf[got..];
            let n = self.ready.read(room);
            if n > 0 {
                got += n;
            } else if !self.content.is_done() {
                got += self.content.read(room)?;
            } else if !self.advance().map_err(BundleError::into_io)? {
                break;
            }
        }
        Ok(got)
    }
}

/// One content, object by object.
pub(super) struct ContentReader<'a> {
    source: &'a BundleSource,
    /// Objects that are left, in reverse.
    objects: Vec<u32>,
    /// Or a base content, and its size.
    base: Option<(u32, u64)>,
    /// How much of the next object, or of the base content, is given, in bytes.
    given: u64,
}

impl<'a> ContentReader<'a> {
    pub fn new(source: &'a BundleSource) -> Self {
        Self { source, objects: Vec::new(), base: None, given: 0 }
    }

    /// This content is next.
    pub fn give(&mut self, content: u32) {
        let index = self.source.bundle().index();
        self.given = 0;
        if self.source.is_own(content) {
            self.objects.extend(index.contents.objects_of(content).iter().rev());
        } else {
            self.base = Some((content, index.content_size(content))).filter(|(_, size)| *size > 0);
        }
    }

    fn is_done(&self) -> bool {
        self.objects.is_empty() && self.base.is_none()
    }

    fn read_some(&mut self, buf: &mut [u8]) -> Result<usize, BundleError> {
        if let Some((content, size)) = self.base {
            let n = (size - self.given).min(buf.len() as u64) as usize;
            self.source.read_base(content, self.given, &mut buf[..n])?;
            self.given += n as u64;
            if self.given == size {
                self.base = None;
            }
            return Ok(n);
        }
        let Some(object) = self.objects.last().copied() else { return Ok(0) };
        let size = u64::from(self.source.bundle().place(object).2);
        let n = (size - self.given).min(buf.len() as u64) as usize;
        self.source.read_object(object, self.given, &mut buf[..n])?;
        self.given += n as u64;
        if self.given == size {
            self.objects.pop();
            self.given = 0;
        }
        Ok(n)
    }
}

impl Read for ContentReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.read_some(buf).map_err(BundleError::into_io)
    }
}
