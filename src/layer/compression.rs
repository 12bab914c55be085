//! The compressions that layers and archives come in, recognised by content, never by name.

use std::io::{self, BufReader, Read, Write};

use crate::base::caps::{self, OverLimit};

/// How bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952, one member or many.
    Gzip,
    /// bzip2, one stream or many.
    Bzip2,
    /// The .xz format, one stream or many.
    Xz,
    /// RFC 8878, one frame or many, skippable frames among them.
    Zstd,
}

/// What a decoder may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// The largest zstd window, as a power of two; 31 at most. Memory of that size is taken only for frames that say
    /// they need it.
    pub window_log: u32,
    /// The most memory an xz stream may need, in bytes.
    pub xz_memory: u64,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self { window_log: caps::ZSTD_WINDOW_LOG, xz_memory: 256 << 20 }
    }
}

/// A zstd frame wants a larger window than is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a zstd frame needs a larger window than {} MiB", (1_u64 << .0) >> 20)]
pub struct WindowTooLarge(pub u32);

/// How many bytes [`detect`] looks at.
pub const MAGIC_BYTES: usize = 6;

/// Recognises a compression by the first bytes of a stream, at least [`MAGIC_BYTES`] of them where there are so many.
pub fn detect(head: &[u8]) -> Compression {
    match head {
        [0x1f, 0x8b, 8, ..] => Compression::Gzip,
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Compression::Bzip2,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        // A skippable frame first, as some seekable formats begin.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        _ => Compression::None,
    }
}

impl Compression {
    /// Decodes `reader`. What it reads is never taken at its word: memory grows with the bytes that come out, or stays
    /// under `limits`; how much may come out is the caller's to cap.
    pub fn decoder<'a>(
        self,
        reader: Box<dyn Read + Send + 'a>,
        limits: &DecodeLimits,
    ) -> io::Result<Box<dyn Read + Send + 'a>> {
        let buffered = |reader| BufReader::with_capacity(128 << 10, reader);
        Ok(match self {
            Self::None => reader,
            Self::Gzip => Box::new(GzipReader(flate2::bufread::MultiGzDecoder::new(buffered(reader)))),
            Self::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(buffered(reader))),
            Self::Xz => {
                let stream =
                    liblzma::stream::Stream::new_stream_decoder(limits.xz_memory, liblzma::stream::CONCATENATED)
                        .map_err(io::Error::from)?;
                Box::new(liblzma::bufread::XzDecoder::new_stream(buffered(reader), stream))
            }
            Self::Zstd => {
                let window_log = limits.window_log.clamp(10, 31);
                let mut decoder = zstd::stream::read::Decoder::with_buffer(buffered(reader))?;
                decoder.window_log_max(window_log)?;
                Box::new(ZstdReader { inner: decoder, window_log })
            }
        })
    }
}

/// Tells broken data, and whatever lies behind the last member that is none, from a disk that fails. Zeros there are
/// refused too, as by Go's `compress/gzip`, which docker and containerd read with.
struct GzipReader<R>(flate2::bufread::MultiGzDecoder<R>);

impl<R: io::BufRead> Read for GzipReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput if error.raw_os_error().is_none() => {
                io::Error::new(io::ErrorKind::InvalidData, error)
            }
            _ => error,
        })
    }
}

/// Says what is wrong with a window in words that lead somewhere.
struct ZstdReader<R: io::BufRead> {
    inner: zstd::stream::read::Decoder<'static, R>,
    window_log: u32,
}

impl<R: io::BufRead> Read for ZstdReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf).map_err(|error| {
            if error.to_string().contains("too much memory") {
                return io::Error::new(io::ErrorKind::InvalidData, WindowTooLarge(self.window_log));
            }
            match error.kind() {
                // The library's own complaints about the data.
                io::ErrorKind::Other => io::Error::new(io::ErrorKind::InvalidData, error),
                _ => error,
            }
        })
    }
}

/// What is compressed may always expand to so many bytes,
const FREE_EXPANSION: u64 = 64 << 30;
/// and beyond it to so many times its size; deflate cannot do more than 1032, and images are nowhere near.
const EXPANSION: u64 = 1100;

/// How many bytes `packed` ones may believably expand to.
pub fn most_of(packed: u64) -> u64 {
    packed.saturating_mul(EXPANSION).max(FREE_EXPANSION)
}

/// A decoder that may not go on for ever.
pub struct Bounded<R> {
    inner: R,
    what: &'static str,
    limit: u64,
    left: u64,
}

/// Lets `decoder` give what `packed` bytes may believably expand to; what comes after that is an error. `what` is the
/// object's name in it.
pub fn bounded<R: Read>(decoder: R, packed: u64, what: &'static str) -> Bounded<R> {
    let limit = most_of(packed);
    Bounded { inner: decoder, what, limit, left: limit }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            let over = OverLimit { what: self.what.into(), limit: self.limit, unit: "bytes" };
            io::Error::new(io::ErrorKind::InvalidData, over)
        })?;
        Ok(n)
    }
}

/// A compressing writer; nothing is complete before [`Encoder::finish`].
pub trait Encoder: Write + Send {
    /// Writes what is left and gives nothing back but success.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// How to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodeOptions {
    /// The method's own scale; `None` for its default (gzip 6, zstd 3).
    pub level: Option<i32>,
    /// How many threads work; the bytes written do not depend on it.
    pub threads: usize,
}

/// Writes nothing but what it is given.
struct Plain<W>(W);

impl<W: Write> Write for Plain<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<W: Write + Send> Encoder for Plain<W> {
    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.0.flush()
    }
}

/// zstd in jobs of a fixed size.
struct Zstd<W: Write>(zstd::stream::write::Encoder<'static, W>);

impl<W: Write> Write for Zstd<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<W: Write + Send> Encoder for Zstd<W> {
    fn finish(self: Box<Self>) -> io::Result<()> {
        self.0.finish()?.flush()
    }
}

impl Compression {
    /// Compresses to `out`. gzip and zstd are written; asking for the others is an error.
    pub fn encoder<'a, W: Write + Send + 'a>(
        self,
        out: W,
        options: EncodeOptions,
    ) -> io::Result<Box<dyn Encoder + 'a>> {
        match self {
            Self::None => Ok(Box::new(Plain(out))),
            Self::Gzip => Ok(Box::new(super::pgzip::ParallelGzip::new(out, options)?)),
            Self::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(out, options.level.unwrap_or(3))?;
                // Even one worker: without workers zstd cuts its jobs otherwise and the bytes differ.
                encoder.multithread(u32::try_from(options.threads.max(1)).unwrap_or(1))?;
                encoder.include_checksum(true)?;
                Ok(Box::new(Zstd(encoder)))
            }
            Self::Bzip2 | Self::Xz => Err(io::Error::from(io::ErrorKind::Unsupported)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_expands_beyond_belief_is_given_up() {
        let mut endless = bounded(io::repeat(0), 1, "the layer");
        // As if all but the last of it had been read.
        endless.left = 1000;
        let error = io::copy(&mut endless, &mut io::sink()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(error.to_string(), "the layer is over the limit of 68719476736 bytes");
        assert_eq!(bounded(io::empty(), 1 << 30, "").limit, EXPANSION << 30);
    }
}
