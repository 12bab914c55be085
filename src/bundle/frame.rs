//! One frame: compressed, and decompressed to exactly what it should be.

use std::io;

use zstd::zstd_safe::{self, CCtx, CParameter, DCtx};

use super::level::Level;
use crate::base::codec::Broken;

fn zstd_error(code: usize) -> io::Error {
    io::Error::other(format!("zstd: {}", zstd_safe::get_error_name(code)))
}

/// How many bytes a frame of `raw` bytes takes at most.
pub(crate) fn bound(raw: usize) -> usize {
    zstd_safe::compress_bound(raw)
}

/// Compresses `raw` into one zstd frame whose window is as large as itself, so that its last byte can refer to its
/// first, or to `prefix`, which must be given again to decompress it. The same input gives the same bytes.
pub(crate) fn compress(level: Level, raw: &[u8], prefix: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    compress_to(&mut out, level, raw, prefix)?;
    Ok(out)
}

/// [`compress`] into a buffer, whose bytes it replaces. It grows to more than the frame takes: kept and used again, that
/// is memory once.
pub(crate) fn compress_to(out: &mut Vec<u8>, level: Level, raw: &[u8], prefix: &[u8]) -> io::Result<()> {
    // In a prefix a version may lie anywhere.
    run(&mut new_context()?, out, level, level.long_distance() || !prefix.is_empty(), raw, prefix)
}

/// Tells about how many bytes something takes, compressed.
pub(crate) struct Estimator<'a> {
    /// Used again and again: making one takes longer than what it does for a small object.
    context: CCtx<'a>,
    out: Vec<u8>,
}

impl<'a> Estimator<'a> {
    pub fn new() -> io::Result<Self> {
        Ok(Self { context: new_context()?, out: Vec::new() })
    }

    /// The bytes that `raw` takes, by itself or behind `prefix`.
    pub fn size(&mut self, raw: &[u8], prefix: &'a [u8]) -> io::Result<usize> {
        // Neighbours are a few chunks away at most: matches over a long distance are not looked for.
        run(&mut self.context, &mut self.out, Level::FAST, false, raw, prefix)?;
        Ok(self.out.len())
    }
}

fn new_context<'a>() -> io::Result<CCtx<'a>> {
    Ok(CCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?)
}

fn run<'a>(
    context: &mut CCtx<'a>,
    out: &mut Vec<u8>,
    level: Level,
    long_distance: bool,
    raw: &[u8],
    prefix: &'a [u8],
) -> io::Result<()> {
    let span = (raw.len() + prefix.len()).max(1);
    let window = (usize::BITS - (span - 1).leading_zeros()).clamp(10, 27);
    let parameters = [
        CParameter::CompressionLevel(level.number()),
        CParameter::WindowLog(window),
        CParameter::EnableLongDistanceMatching(long_distance),
        // The index has stronger checksums, and the sizes.
        CParameter::ChecksumFlag(false),
        CParameter::ContentSizeFlag(true),
    ];
    // zstd's own tables for the levels above take up to 640 MiB; with those of level 19 they only search longer.
    let tables = (level > Level::MAX).then_some([CParameter::ChainLog(24), CParameter::HashLog(22)]);
    for parameter in parameters.into_iter().chain(tables.into_iter().flatten()) {
        context.set_parameter(parameter).map_err(zstd_error)?;
    }
    if !prefix.is_empty() {
        context.ref_prefix(prefix).map_err(zstd_error)?;
    }
    // Pages that are never written take no memory: the bound costs nothing.
    out.clear();
    out.reserve_exact(bound(raw.len()));
    context.compress2(out, raw).map_err(zstd_error)?;
    Ok(())
}

/// Decompresses `stored`, which must be one zstd frame that gives `length` bytes.
pub(crate) fn decompress(stored: &[u8], length: usize, prefix: &[u8]) -> Result<Vec<u8>, Broken> {
    let mut raw = Vec::new();
    decompress_to(&mut raw, stored, length, prefix)?;
    Ok(raw)
}

/// The same into `raw`, in place of what it has.
pub(crate) fn decompress_to(raw: &mut Vec<u8>, stored: &[u8], length: usize, prefix: &[u8]) -> Result<(), Broken> {
    match zstd_safe::find_frame_compressed_size(stored) {
        Ok(size) if size == stored.len() => {}
        _ => return Err("it is not one zstd frame"),
    }
    let mut context = DCtx::try_create().ok_or("out of memory")?;
    if !prefix.is_empty() {
        context.ref_prefix(prefix).map_err(|_| "its prefix cannot be used")?;
    }
    raw.clear();
    raw.reserve_exact(length);
    context.decompress(raw, stored).map_err(|_| "it does not decompress to the length it should have")?;
    if raw.len() != length {
        return Err("it does not decompress to the length it should have");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_gives_exactly_the_bytes_it_was_made_of_or_an_error() {
        let base: Vec<u8> = (0..200_000u32).flat_map(|n| (n.wrapping_mul(2_654_435_761) >> 7).to_le_bytes()).collect();
        let mut changed = base.clone();
        changed[77_777] ^= 1;
        let alone = compress(Level::FAST, &changed, &[]).unwrap();
        let delta = compress(Level::FAST, &changed, &base).unwrap();
        assert!(delta.len() < 1000 && alone.len() > 100_000, "{} {}", delta.len(), alone.len());
        assert!(decompress(&alone, changed.len(), &[]).unwrap() == changed);
        assert!(decompress(&delta, changed.len(), &base).unwrap() == changed);
        assert!(decompress(&alone, changed.len() - 1, &[]).is_err(), "more than declared");
        assert!(decompress(&alone, changed.len() + 1, &[]).is_err(), "less than declared");
        assert!(decompress(&[&alone[..], &alone[..]].concat(), 2 * changed.len(), &[]).is_err(), "two frames");
        assert!(decompress(&alone[..alone.len() - 1], changed.len(), &[]).is_err());
        assert!(decompress(&delta, changed.len(), &[]).map_or(true, |raw| raw != changed), "without its prefix");
        assert!(decompress(&compress(Level::MAX, &[], &[]).unwrap(), 0, &[]).unwrap().is_empty());
    }
}
