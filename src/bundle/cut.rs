//! Cuts a layer's tar at file boundaries. Nothing is interpreted beyond what that takes: sizes, and paths for the
//! order. Whatever is odd stays in the segments, byte for byte.

use std::io::Read;

use super::error::{BundleError, Doing};
use crate::base::read::fill;
use crate::base::{BoxFault, ContentId, caps};
use crate::image::{SplitContent, SplitSink};

const BLOCK: usize = 512;

/// What extended headers say about the next entry.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    size: Option<u64>,
}

/// What a tar is cut into.
pub(crate) trait Parts {
    /// Headers, padding, whatever is odd.
    fn segment(&mut self, bytes: &[u8]) -> Result<(), BoxFault>;

    /// The next bytes of a content.
    fn data(&mut self, bytes: &[u8]);

    /// A content, at `offset` in the tar, all of whose `size` bytes have been given.
    fn content(&mut self, path: &[u8], offset: u64, size: u64) -> Result<(), BoxFault>;
}

/// Contents with their IDs.
struct Identified<'s> {
    sink: &'s mut dyn SplitSink,
    hasher: blake3::Hasher,
}

impl Parts for Identified<'_> {
    fn segment(&mut self, bytes: &[u8]) -> Result<(), BoxFault> {
        self.sink.segment(bytes)
    }

    fn data(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    fn content(&mut self, path: &[u8], offset: u64, size: u64) -> Result<(), BoxFault> {
        let id = ContentId::from_bytes(*self.hasher.finalize().as_bytes());
        self.hasher.reset();
        self.sink.content(&SplitContent { id, size, offset, path })
    }
}

/// Gives all of `tar` to `sink`, in order.
pub(crate) fn split(tar: &mut dyn Read, sink: &mut dyn SplitSink) -> Result<(), BoxFault> {
    cut(tar, &mut Identified { sink, hasher: blake3::Hasher::new() })
}

/// Gives all of `tar` to `parts`, in order.
pub(crate) fn cut(tar: &mut dyn Read, parts: &mut dyn Parts) -> Result<(), BoxFault> {
    let mut at = 0u64;
    let mut extended = Extended::default();
    let mut block = [0; BLOCK];
    let mut buffer = vec![0; 1 << 20];
    loop {
        let got = fill(tar, &mut block).doing(|| "read the layer".into())?;
        at += got as u64;
        parts.segment(&block[..got])?;
        if got < BLOCK {
            return Ok(());
        }
        if block.iter().all(|b| *b == 0) {
            continue;
        }
        let Some(size) = number(&block[124..136]) else {
            // No header: the rest is passed on as it is.
            return pass_on(tar, parts, u64::MAX, &mut buffer).map(drop);
        };
        match block[156] {
            kind @ (b'x' | b'L') if size <= caps::TAR_METADATA_BYTES => {
                let mut data = vec![0; size as usize];
                let got = fill(tar, &mut data).doing(|| "read the layer".into())?;
                at += got as u64;
                parts.segment(&data[..got])?;
                if got < data.len() {
                    return Ok(());
                }
                if kind == b'x' {
                    extended.take_pax(&data);
                } else {
                    extended.path = Some(until_nul(&data).to_vec());
                }
            }
            b'0' | 0 | b'7' => {
                let Extended { path, size: pax_size } = std::mem::take(&mut extended);
                let size = pax_size.unwrap_or(size);
                let path = path.unwrap_or_else(|| own_path(&block));
                if size > 0 {
                    let mut left = size;
                    while left > 0 {
                        let most = left.min(buffer.len() as u64) as usize;
                        let n = tar.read(&mut buffer[..most]).doing(|| "read the layer".into())?;
                        if n == 0 {
                            let what = format!("{} is cut short", String::from_utf8_lossy(&path));
                            return Err(BundleError::malformed("layer", what).into());
                        }
                        parts.data(&buffer[..n]);
                        left -= n as u64;
                    }
                    parts.content(&path, at, size)?;
                    at += size;
                }
            }
            // Links, directories and devices have no data, whatever their size says.
            b'1' | b'2' | b'3' | b'4' | b'5' | b'6' => extended = Extended::default(),
            b'g' | b'K' => at += pass_on(tar, parts, size, &mut buffer)?,
            _ => {
                at += pass_on(tar, parts, extended.size.unwrap_or(size), &mut buffer)?;
                extended = Extended::default();
            }
        }
        let zeros = at.next_multiple_of(BLOCK as u64) - at;
        at += pass_on(tar, parts, zeros, &mut buffer)?;
    }
}

impl Extended {
    fn take_pax(&mut self, data: &[u8]) {
        let mut rest = data;
        while let Some(space) = rest.iter().position(|b| *b == b' ') {
            let length = std::str::from_utf8(&rest[..space]).ok().and_then(|text| text.parse::<usize>().ok());
            let Some((record, after)) = length.filter(|n| *n > space).and_then(|n| rest.split_at_checked(n)) else {
                return;
            };
            let record = &record[space + 1..];
            let record = record.strip_suffix(b"\n").unwrap_or(record);
            if let Some(path) = record.strip_prefix(b"path=") {
                self.path = Some(path.to_vec());
            } else if let Some(size) = record.strip_prefix(b"size=") {
                self.size = std::str::from_utf8(size).ok().and_then(|text| text.parse().ok());
            }
            rest = after;
        }
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

fn own_path(block: &[u8; BLOCK]) -> Vec<u8> {
    let (name, prefix) = (until_nul(&block[..100]), until_nul(&block[345..500]));
    if block[257..263] == *b"ustar\0" && !prefix.is_empty() { [prefix, b"/", name].concat() } else { name.to_vec() }
}

/// A size field: octal digits between spaces and NULs, or base 256.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let first = u64::from(field[0] & 0x7f);
        return field[1..].iter().try_fold(first, |n, b| Some(n.checked_mul(256)? + u64::from(*b)));
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

/// Gives up to `count` bytes to `parts` as a segment; fewer at the end of the tar.
fn pass_on(tar: &mut dyn Read, parts: &mut dyn Parts, count: u64, buffer: &mut [u8]) -> Result<u64, BoxFault> {
    let mut left = count;
    while left > 0 {
        let most = left.min(buffer.len() as u64) as usize;
        let got = fill(tar, &mut buffer[..most]).doing(|| "read the layer".into())?;
        if got == 0 {
            break;
        }
        parts.segment(&buffer[..got])?;
        left -= got as u64;
    }
    Ok(count - left)
}
