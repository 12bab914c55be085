//! Compressed layers made again from their tars. A registry knows a layer by the digest of its compressed bytes; where
//! those are what Go's `compress/gzip` makes of the tar, as in every layer that docker pushed, the tar and a recipe of
//! two bytes replace them. That it is so is never assumed: [`detect`] compresses the tar and compares every byte.

mod bits;
mod deflate;
mod huffman;

use std::io::{self, Read, Write};

use self::deflate::Deflater;
use crate::base::Ctx;

/// What Go's `io.Copy` hands on at once, in bytes, and so docker when it compresses a layer.
const PIECE: usize = 32 << 10;
/// A gzip header as Go writes it: no name, no time, no system; the eighth byte tells the extreme levels.
const HEADER: [u8; 8] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0];

/// How to make a compressed layer again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Recipe {
    level: u8,
}

impl Recipe {
    /// Its form where it is kept: the number of the method, and its level. Both forms of a method stay as they are for
    /// good: what was replaced by a recipe needs it to come back.
    pub const fn to_bytes(self) -> [u8; 2] {
        [1, self.level]
    }

    /// Reads that form; `None` for a recipe of another version.
    pub fn from_bytes(bytes: [u8; 2]) -> Option<Self> {
        match bytes {
            [1, level @ (6 | 9)] => Some(Self { level }),
            _ => None,
        }
    }

    fn header(self) -> [u8; 10] {
        let mut header = [0; 10];
        header[..8].copy_from_slice(&HEADER);
        header[8] = if self.level == 9 { 2 } else { 0 };
        header[9] = 0xff;
        header
    }
}

/// The recipe that makes `blob` of `tar`, proven by doing it; `None` when it would be other bytes. Both are read once,
/// no further than the first difference.
pub fn detect(blob: &mut dyn Read, tar: &mut dyn Read, ctx: &Ctx) -> io::Result<Option<Recipe>> {
    let mut header = [0; 10];
    match blob.read_exact(&mut header) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let known = [6, 9].map(|level| Recipe { level });
    let Some(recipe) = known.into_iter().find(|recipe| recipe.header() == header) else { return Ok(None) };
    let mut compare = Compare { blob, read: vec![0; 64 << 10], differs: false };
    // The header has been compared.
    let made = body(recipe, tar, &mut compare, ctx);
    if compare.differs {
        return Ok(None);
    }
    made?;
    Ok((compare.blob.read(&mut [0])? == 0).then_some(recipe))
}

/// Makes the compressed layer of `tar` again. Of a tar that is not the one the recipe was found with, the result is
/// other bytes: whoever takes them checks their digest.
pub fn rebuild(recipe: Recipe, tar: &mut dyn Read, out: &mut dyn Write, ctx: &Ctx) -> io::Result<()> {
    out.write_all(&recipe.header())?;
    body(recipe, tar, out, ctx)
}

fn body(recipe: Recipe, tar: &mut dyn Read, out: &mut dyn Write, ctx: &Ctx) -> io::Result<()> {
    let mut deflater = Deflater::new(recipe.level, &mut *out).ok_or(io::ErrorKind::Unsupported)?;
    let mut crc = flate2::Crc::new();
    let mut piece = vec![0; PIECE];
    loop {
        ctx.check()?;
        let n = fill(tar, &mut piece)?;
        crc.update(&piece[..n]);
        deflater.write(&piece[..n])?;
        if n < piece.len() {
            break;
        }
    }
    deflater.finish()?;
    out.write_all(&crc.sum().to_le_bytes())?;
    out.write_all(&crc.amount().to_le_bytes())
}

/// Reads until the buffer is full or the stream over.
fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        match reader.read(&mut buffer[have..]) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(have)
}

/// Takes bytes that have to be those of the blob.
struct Compare<'a> {
    blob: &'a mut dyn Read,
    read: Vec<u8>,
    differs: bool,
}

impl Write for Compare<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(self.read.len());
        let have = fill(self.blob, &mut self.read[..n])?;
        if self.read[..have] != bytes[..n] {
            self.differs = true;
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some of everything: text, what repeats near and far, what does not repeat, nothing.
    fn samples() -> Vec<Vec<u8>> {
        let mut seed = 1_u32;
        let mut random = move || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        };
        let noise: Vec<u8> = (0..90_000).map(|_| random()).collect();
        let words: Vec<u8> = (0..60_000).flat_map(|i| format!("{} ", i * 7919 % 1000).into_bytes()).collect();
        let skewed: Vec<u8> = (0..50_000).map(|_| random().leading_zeros() as u8).collect();
        let mixed = [&noise[..40_000], &words[..70_000], &noise[..33_000], &vec![0; 100_000], &skewed].concat();
        vec![vec![], vec![7], b"abcabcabcabc".to_vec(), vec![0; 1 << 17], noise, words, skewed, mixed]
    }

    #[test]
    fn what_is_made_is_gzip_of_the_same_bytes() {
        for (i, sample) in samples().iter().enumerate() {
            for level in [6, 9] {
                let recipe = Recipe { level };
                let mut blob = Vec::new();
                rebuild(recipe, &mut &sample[..], &mut blob, &Ctx::silent()).unwrap();
                let mut back = Vec::new();
                flate2::read::GzDecoder::new(&blob[..]).read_to_end(&mut back).unwrap();
                assert!(back == *sample, "sample {i} at level {level}");
                let found = |blob: &[u8], tar: &[u8]| detect(&mut &*blob, &mut &*tar, &Ctx::silent()).unwrap();
                assert_eq!(found(&blob, sample), Some(recipe));
                assert_eq!(found(&[&blob[..], b"x"].concat(), sample), None, "more follows");
                assert_eq!(found(&blob[..blob.len() - 1], sample), None, "cut short");
                assert_eq!(found(&blob, &[&sample[..], b"x"].concat()), None, "another tar");
                for at in [0, 9, 10, blob.len() / 2, blob.len() - 1] {
                    let mut other = blob.clone();
                    other[at] ^= 1;
                    assert_eq!(found(&other, sample), None, "another byte at {at}");
                }
                assert_eq!(Recipe::from_bytes(recipe.to_bytes()), Some(recipe));
            }
        }
        assert_eq!(Recipe::from_bytes([1, 5]), None);
        assert_eq!(Recipe::from_bytes([2, 6]), None);
    }
}
