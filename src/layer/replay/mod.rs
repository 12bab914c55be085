//! Compressed layers made again from their tars. A registry knows a layer by the digest of its compressed bytes; where
//! those are what Go's `compress/gzip` makes of the tar, as in every layer that docker pushed, the tar and a recipe of
//! two bytes replace them. That it is so is never assumed: [`detect`] compresses the tar and compares every byte.

mod bits;
mod deflate;
mod fast;
mod huffman;

use std::io::{self, Read, Write};

use self::deflate::Deflater;
use self::fast::Fast;
use crate::base::Ctx;
use crate::base::read::fill;

/// What Go's `io.Copy` hands on at once, in bytes, and so docker when it compresses a layer.
const PIECE: usize = 32 << 10;
/// A gzip header as Go writes it: no name, no time, no system; the eighth byte tells the extreme levels.
const HEADER: [u8; 8] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0];

/// The levels at which programs compress layers: best speed, default, best compression.
const LEVELS: [u8; 3] = [1, 6, 9];

/// How to make a compressed layer again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Recipe {
    level: u8,
}

impl std::fmt::Display for Recipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Go's gzip, level {}", self.level)
    }
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
            [1, level] if LEVELS.contains(&level) => Some(Self { level }),
            _ => None,
        }
    }

    fn header(self) -> [u8; 10] {
        let mut header = [0; 10];
        header[..8].copy_from_slice(&HEADER);
        header[8] = match self.level {
            1 => 4,
            9 => 2,
            _ => 0,
        };
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
    let known = LEVELS.map(|level| Recipe { level });
    let Some(recipe) = known.into_iter().find(|recipe| recipe.header() == header) else { return Ok(None) };
    let mut made = Rebuilt::new(recipe, tar).ok_or(io::ErrorKind::Unsupported)?;
    // The header has been compared.
    made.used = header.len();
    let mut expected = vec![0; 64 << 10];
    loop {
        ctx.check()?;
        if !made.advance()? {
            return Ok((blob.read(&mut [0])? == 0).then_some(recipe));
        }
        let ready = &made.ready[made.used..];
        let n = ready.len().min(expected.len());
        let have = fill(blob, &mut expected[..n])?;
        if expected[..have] != ready[..n] {
            return Ok(None);
        }
        made.used += n;
    }
}

/// Makes the compressed layer of `tar` again. Of a tar that is not the one the recipe was found with, the result is
/// other bytes: whoever takes them checks their digest.
pub fn rebuild(recipe: Recipe, tar: &mut dyn Read, out: &mut dyn Write, ctx: &Ctx) -> io::Result<()> {
    let mut made = Rebuilt::new(recipe, tar).ok_or(io::ErrorKind::Unsupported)?;
    while made.advance()? {
        ctx.check()?;
        out.write_all(&made.ready[made.used..])?;
        made.used = made.ready.len();
    }
    Ok(())
}

/// Go's methods.
enum Compressor {
    Fast(Fast),
    Chains(Deflater),
}

impl Compressor {
    fn new(level: u8) -> Option<Self> {
        if level == 1 { Some(Self::Fast(Fast::new())) } else { Deflater::new(level).map(Self::Chains) }
    }

    fn write(&mut self, piece: &[u8]) {
        match self {
            Self::Fast(fast) => fast.write(piece),
            Self::Chains(deflater) => deflater.write(piece),
        }
    }

    fn take(&mut self) -> Vec<u8> {
        match self {
            Self::Fast(fast) => fast.take(),
            Self::Chains(deflater) => deflater.take(),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Self::Fast(fast) => fast.finish(),
            Self::Chains(deflater) => deflater.finish(),
        }
    }
}

/// A compressed layer, made again of its tar as it is read. What [`rebuild`] says of its bytes holds here too.
pub struct Rebuilt<R> {
    tar: R,
    /// `None` when the stream is complete.
    deflater: Option<Compressor>,
    crc: flate2::Crc,
    piece: Vec<u8>,
    /// Bytes to give, from `used` on.
    ready: Vec<u8>,
    used: usize,
}

impl<R: Read> Rebuilt<R> {
    /// The layer that `recipe` makes of `tar`; `None` when this program cannot follow the recipe.
    pub fn new(recipe: Recipe, tar: R) -> Option<Self> {
        Some(Self {
            tar,
            deflater: Some(Compressor::new(recipe.level)?),
            crc: flate2::Crc::new(),
            piece: vec![0; PIECE],
            ready: recipe.header().to_vec(),
            used: 0,
        })
    }

    /// Gets more bytes ready unless some are; false at the end.
    fn advance(&mut self) -> io::Result<bool> {
        while self.used == self.ready.len() {
            if self.deflater.is_none() {
                return Ok(false);
            }
            let n = fill(&mut self.tar, &mut self.piece)?;
            let Some(mut deflater) = self.deflater.take() else { return Ok(false) };
            self.used = 0;
            self.crc.update(&self.piece[..n]);
            deflater.write(&self.piece[..n]);
            if n == self.piece.len() {
                self.ready = deflater.take();
                self.deflater = Some(deflater);
            } else {
                self.ready = deflater.finish();
                self.ready.extend_from_slice(&self.crc.sum().to_le_bytes());
                self.ready.extend_from_slice(&self.crc.amount().to_le_bytes());
            }
        }
        Ok(true)
    }
}

impl<R: Read> Read for Rebuilt<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() || !self.advance()? {
            return Ok(0);
        }
        let n = buf.len().min(self.ready.len() - self.used);
        buf[..n].copy_from_slice(&self.ready[self.used..][..n]);
        self.used += n;
        Ok(n)
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
            for level in LEVELS {
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

    /// Made by Go 1.19 of the same samples, one after another, `io.Copy` into `gzip.NewWriterLevel`.
    #[test]
    fn what_is_made_is_what_go_makes() {
        for (level, digest) in GO {
            let mut all = Vec::new();
            for sample in samples() {
                rebuild(Recipe { level }, &mut &sample[..], &mut all, &Ctx::silent()).unwrap();
            }
            assert_eq!(crate::base::Digest::of(&all).hex(), digest, "level {level}");
        }
    }

    const GO: [(u8, &str); 3] = [
        (1, "180d6e8a3fa87b7c9bd24415e9469e006b8fc32d0abca83ab5d6a6f4ae667536"),
        (6, "b5fb350d5259f3a39f1ccacde0a77d9c47c3bb85c2be84fbb0b052f8235eb7d5"),
        (9, "91d6e5abe3752ba735c0b4ae521ff1ddb2046660191d5fa00a478aad83d769cf"),
    ];
}
