//! Compressed layers made again from their tars. A registry knows a layer by the digest of its compressed bytes; where
//! those are what Go's `compress/gzip` makes of the tar, as in every layer that docker pushed, or what klauspost's `pgzip`
//! makes of it, as in those of podman, buildah and skopeo, the tar and a recipe of two bytes replace them; where zlib or
//! one of its kin made them, corrections are needed too. That it is so is never assumed: the tar is compressed, and
//! every byte compared.

mod bits;
mod deflate;
mod effort;
mod fast;
mod huffman;
mod klauspost;
mod klauspost_bits;
mod zlib;

use std::io::{self, BufRead, Read, Write};

use self::deflate::Deflater;
use self::fast::Fast;
use self::klauspost::Blocks;
pub use self::zlib::{CORRECTIONS, Corrected, Model, analyse};
use crate::base::Ctx;
use crate::base::read::fill;

/// What Go's `io.Copy` hands on at once, in bytes, and so docker when it compresses a layer.
const PIECE: usize = 32 << 10;

/// How to make a compressed layer again: who compressed it, and at which level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Recipe {
    method: Method,
    level: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Method {
    /// Go's `compress/gzip`.
    Go,
    /// `github.com/klauspost/pgzip`.
    Pgzip,
}

/// What is known: best speed, default and best compression of Go, the default of pgzip.
const KNOWN: [Recipe; 4] = [
    Recipe { method: Method::Go, level: 1 },
    Recipe { method: Method::Go, level: 6 },
    Recipe { method: Method::Go, level: 9 },
    Recipe { method: Method::Pgzip, level: 5 },
];

impl std::fmt::Display for Recipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.method {
            Method::Go => "Go's gzip",
            Method::Pgzip => "pgzip",
        };
        write!(f, "{name}, level {}", self.level)
    }
}

impl Recipe {
    /// Its form where it is kept: the number of the method, and its level. Both forms of a method stay as they are for
    /// good: what was replaced by a recipe needs it to come back.
    pub const fn to_bytes(self) -> [u8; 2] {
        let method = match self.method {
            Method::Go => 1,
            Method::Pgzip => 2,
        };
        [method, self.level]
    }

    /// Reads that form; `None` for a recipe of another version.
    pub fn from_bytes(bytes: [u8; 2]) -> Option<Self> {
        KNOWN.into_iter().find(|recipe| recipe.to_bytes() == bytes)
    }

    /// Each recipe has another.
    fn header(self) -> [u8; 10] {
        match (self.method, self.level) {
            // No name, no time, no system; the ninth byte tells the extreme levels.
            (Method::Go, 1) => [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 0xff],
            (Method::Go, 9) => [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 0xff],
            (Method::Go, _) => [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff],
            // Go's earliest time, cut to 32 bits.
            (Method::Pgzip, _) => [0x1f, 0x8b, 8, 0, 0, 9, 0x6e, 0x88, 0, 0xff],
        }
    }
}

/// A way to make a blob of its tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// By compressing the tar.
    Exact(Recipe),
    /// By compressing the tar, with corrections.
    Corrected(Model, Vec<u8>),
}

impl Way {
    /// Method and parameter.
    pub const fn to_bytes(&self) -> [u8; 2] {
        match self {
            Self::Exact(recipe) => recipe.to_bytes(),
            Self::Corrected(model, _) => model.to_bytes(),
        }
    }

    /// Whether it makes `blob` of `tar`. An exact one was found by doing it; corrections are tried here.
    pub fn is_proven(&self, blob: &mut dyn Read, tar: impl Read, ctx: &Ctx) -> io::Result<bool> {
        let Self::Corrected(model, corrections) = self else { return Ok(true) };
        let mut made = Corrected::new(*model, corrections.clone(), tar)?;
        let (mut one, mut other) = (vec![0; 64 << 10], vec![0; 64 << 10]);
        loop {
            ctx.check()?;
            let n = match fill(&mut made, &mut one) {
                Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(false),
                result => result?,
            };
            let have = fill(blob, &mut other)?;
            if one[..n] != other[..have] {
                return Ok(false);
            }
            if n < one.len() {
                return Ok(true);
            }
        }
    }
}

/// A way to make a blob of `size` bytes of its tar: exactly, or with corrections, which the caller then proves
/// ([`Way::is_proven`]). `tar` is read no further than it takes.
pub fn find<B: BufRead>(blob: &dyn Fn() -> B, size: u64, tar: &mut dyn Read, ctx: &Ctx) -> io::Result<Option<Way>> {
    if let Some(recipe) = detect(&mut blob(), tar, ctx)? {
        return Ok(Some(Way::Exact(recipe)));
    }
    Ok(analyse(blob(), size, ctx)?.map(|(model, corrections)| Way::Corrected(model, corrections)))
}

/// The recipe that makes `blob` of `tar`, proven by doing it; `None` when it would be other bytes. Both are read once,
/// no further than the first difference.
pub fn detect(blob: &mut dyn Read, tar: &mut dyn Read, ctx: &Ctx) -> io::Result<Option<Recipe>> {
    let mut header = [0; 10];
    if fill(blob, &mut header)? < header.len() {
        return Ok(None);
    }
    let Some(recipe) = KNOWN.into_iter().find(|recipe| recipe.header() == header) else { return Ok(None) };
    let mut made = Rebuilt::new(recipe, tar);
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
    let mut made = Rebuilt::new(recipe, tar);
    while made.advance()? {
        ctx.check()?;
        out.write_all(&made.ready[made.used..])?;
        made.used = made.ready.len();
    }
    Ok(())
}

/// The compressors.
enum Compressor {
    Fast(Fast),
    Chains(Deflater),
    Blocks(Blocks),
}

impl Compressor {
    fn new(recipe: Recipe) -> Self {
        match (recipe.method, recipe.level) {
            (Method::Pgzip, _) => Self::Blocks(Blocks::new()),
            (Method::Go, 1) => Self::Fast(Fast::new()),
            (Method::Go, level) => Self::Chains(Deflater::new(level)),
        }
    }

    fn write(&mut self, piece: &[u8]) {
        match self {
            Self::Fast(fast) => fast.write(piece),
            Self::Chains(deflater) => deflater.write(piece),
            Self::Blocks(blocks) => blocks.write(piece),
        }
    }

    fn take(&mut self) -> Vec<u8> {
        match self {
            Self::Fast(fast) => fast.take(),
            Self::Chains(deflater) => deflater.take(),
            Self::Blocks(blocks) => blocks.take(),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Self::Fast(fast) => fast.finish(),
            Self::Chains(deflater) => deflater.finish(),
            Self::Blocks(blocks) => blocks.finish(),
        }
    }
}

/// A compressed layer, made again of its tar as it is read. What [`rebuild`] says of its bytes holds here too.
pub struct Rebuilt<R> {
    tar: R,
    /// `None` when the stream is complete.
    compressor: Option<Compressor>,
    crc: flate2::Crc,
    piece: Vec<u8>,
    /// Bytes to give, from `used` on.
    ready: Vec<u8>,
    used: usize,
}

impl<R: Read> Rebuilt<R> {
    /// The layer that `recipe` makes of `tar`.
    pub fn new(recipe: Recipe, tar: R) -> Self {
        Self {
            tar,
            compressor: Some(Compressor::new(recipe)),
            crc: flate2::Crc::new(),
            piece: vec![0; PIECE],
            ready: recipe.header().to_vec(),
            used: 0,
        }
    }

    /// Gets more bytes ready unless some are; false at the end.
    fn advance(&mut self) -> io::Result<bool> {
        while self.used == self.ready.len() {
            if self.compressor.is_none() {
                return Ok(false);
            }
            let n = fill(&mut self.tar, &mut self.piece)?;
            let Some(mut compressor) = self.compressor.take() else { return Ok(false) };
            self.used = 0;
            self.crc.update(&self.piece[..n]);
            compressor.write(&self.piece[..n]);
            if n == self.piece.len() {
                self.ready = compressor.take();
                self.compressor = Some(compressor);
            } else {
                self.ready = compressor.finish();
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
        Ok(give(&self.ready, &mut self.used, buf))
    }
}

/// Gives of what is ready what is not used yet, as far as it fits.
fn give(ready: &[u8], used: &mut usize, buf: &mut [u8]) -> usize {
    let n = buf.len().min(ready.len() - *used);
    buf[..n].copy_from_slice(&ready[*used..][..n]);
    *used += n;
    n
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
        let long = [&mixed[..], &words, &noise, &mixed, &skewed, &mixed, &words, &mixed].concat();
        let short = [20, 40, 100, 130].map(|length| words[..length].to_vec());
        let mut samples =
            vec![vec![], vec![7], b"abcabcabcabc".to_vec(), vec![0; 1 << 17], noise, words, skewed, mixed];
        samples.push(long);
        samples.extend(short);
        samples
    }

    /// The long one is for what depends on more than 1 MiB.
    fn suits(recipe: &Recipe, sample: &[u8]) -> bool {
        recipe.method == Method::Pgzip || sample.len() < 1 << 20
    }

    #[test]
    fn what_is_made_is_gzip_of_the_same_bytes() {
        for (i, sample) in samples().iter().enumerate() {
            for recipe in KNOWN.into_iter().filter(|recipe| suits(recipe, sample)) {
                let mut blob = Vec::new();
                rebuild(recipe, &mut &sample[..], &mut blob, &Ctx::silent()).unwrap();
                let mut back = Vec::new();
                flate2::read::GzDecoder::new(&blob[..]).read_to_end(&mut back).unwrap();
                assert!(back == *sample, "sample {i}: {recipe}");
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
        assert_eq!(Recipe::from_bytes([3, 5]), None);
    }

    /// The same samples, one after another, `io.Copy` into `gzip.NewWriterLevel` of Go 1.19, and into `pgzip.NewWriter`.
    #[test]
    fn what_is_made_is_what_the_original_makes() {
        for (recipe, digest) in KNOWN.into_iter().zip(ORIGINALS) {
            let mut all = Vec::new();
            for sample in samples().into_iter().filter(|sample| suits(&recipe, sample)) {
                rebuild(recipe, &mut &sample[..], &mut all, &Ctx::silent()).unwrap();
            }
            assert_eq!(crate::base::Digest::of(&all).hex(), digest, "{recipe}");
        }
    }

    const ORIGINALS: [&str; 4] = [
        "48f1e82beb428952f6ce2dc185338cc1fb4728fbbbbab4ece91660f520c135bd",
        "3ac5e1f7cd459fde2ffe433d28320334adc183022fa4d38d52abc7171514888d",
        "d5a9fdfdb184ef7b8b4673a21e63f3338f073c69cea2d6ffc46d525593a42228",
        "d7fc00796b479da9bc9cfa92ce340f597df30e9e769fafce8833aa16dce13d74",
    ];
}
