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

/// Gives all of `tar` to `sink`, in order.
pub(crate) fn split(tar: &mut dyn Read, sink: &mut dyn SplitSink) -> Result<(), BoxFault> {
    let mut at = 0u64;
    let mut extended = Extended::default();
    let mut block = [0; BLOCK];
    let mut buffer = vec![0; 1 << 20];
    loop {
        let got = fill(tar, &mut block).doing(|| "read the layer".into())?;
        at += got as u64;
        sink.segment(&block[..got])?;
        if got < BLOCK {
            return Ok(());
        }
        if block.iter().all(|b| *b == 0) {
            continue;
        }
        let Some(size) = number(&block[124..136]) else {
            // No header: the rest is passed on as it is.
            return pass_on(tar, sink, u64::MAX, &mut buffer).map(drop);
        };
        match block[156] {
            kind @ (b'x' | b'L') if size <= caps::TAR_METADATA_BYTES => {
                let mut data = vec![0; size as usize];
                let got = fill(tar, &mut data).doing(|| "read the layer".into())?;
                at += got as u64;
                sink.segment(&data[..got])?;
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
                    let mut hasher = blake3::Hasher::new();
                    let mut left = size;
                    while left > 0 {
                        let most = left.min(buffer.len() as u64) as usize;
                        let n = tar.read(&mut buffer[..most]).doing(|| "read the layer".into())?;
                        if n == 0 {
                            let what = format!("{} is cut short", String::from_utf8_lossy(&path));
                            return Err(BundleError::malformed("layer", what).into());
                        }
                        hasher.update(&buffer[..n]);
                        left -= n as u64;
                    }
                    let id = ContentId::from_bytes(*hasher.finalize().as_bytes());
                    sink.content(&SplitContent { id, size, offset: at, path: &path })?;
                    at += size;
                }
            }
            // Links, directories and devices have no data, whatever their size says.
            b'1' | b'2' | b'3' | b'4' | b'5' | b'6' => extended = Extended::default(),
            b'g' | b'K' => at += pass_on(tar, sink, size, &mut buffer)?,
            _ => {
                at += pass_on(tar, sink, extended.size.unwrap_or(size), &mut buffer)?;
                extended = Extended::default();
            }
        }
        let zeros = at.next_multiple_of(BLOCK as u64) - at;
        at += pass_on(tar, sink, zeros, &mut buffer)?;
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

/// Gives up to `count` bytes to `sink` as a segment; fewer at the end of the tar.
fn pass_on(tar: &mut dyn Read, sink: &mut dyn SplitSink, count: u64, buffer: &mut [u8]) -> Result<u64, BoxFault> {
    let mut left = count;
    while left > 0 {
        let most = left.min(buffer.len() as u64) as usize;
        let got = fill(tar, &mut buffer[..most]).doing(|| "read the layer".into())?;
        if got == 0 {
            break;
        }
        sink.segment(&buffer[..got])?;
        left -= got as u64;
    }
    Ok(count - left)
}
