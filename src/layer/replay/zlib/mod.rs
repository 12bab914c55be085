//! gzip as zlib and what descends from it makes it: Python, Java and so jib and Bazel, libarchive, GNU gzip, pigz and so Nix.
//! What it is made by is not told by the blob, and not all of it follows from the tar: where input was flushed is up
//! to the program. So the tokens are predicted as zlib would choose them, and what is otherwise is a *correction*
//! (docs/format/bundle.md, "Corrections").

mod analyse;
mod chains;
mod corrections;
mod inflate;
mod make;
mod trees;

pub use analyse::analyse;
pub use make::Corrected;

use super::bits::{Token, distance_code};

/// Tokens of a block that no compressor of the family exceeds.
const BLOCK_TOKENS: usize = 1 << 16;
/// The most that corrections take, in bytes.
pub const CORRECTIONS: usize = 32 << 20;
/// The longest header of a gzip member that is taken, in bytes.
const HEADER: usize = 64 << 10;

/// Who is taken to have compressed a layer, and at which level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Model {
    family: Family,
    level: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Family {
    /// zlib with its default of memory, and pigz.
    Zlib,
    /// zlib with all the memory it may be given.
    Large,
    /// GNU gzip.
    Gnu,
}

const FAMILIES: [Family; 3] = [Family::Zlib, Family::Large, Family::Gnu];

impl std::fmt::Display for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.family {
            Family::Zlib => "zlib",
            Family::Large => "zlib with memory level 9",
            Family::Gnu => "GNU gzip",
        };
        write!(f, "{name}, level {}", self.level)
    }
}

impl Model {
    /// Its form where it is kept: the number of the method, and the level. What is predicted stays as it is for good:
    /// corrections are to be applied to it for ever.
    pub const fn to_bytes(self) -> [u8; 2] {
        let method = match self.family {
            Family::Zlib => 3,
            Family::Large => 4,
            Family::Gnu => 5,
        };
        [method, self.level]
    }

    /// Reads that form; `None` for one of another version.
    pub fn from_bytes(bytes: [u8; 2]) -> Option<Self> {
        Self::all().find(|model| model.to_bytes() == bytes)
    }

    /// All there are.
    fn all() -> impl Iterator<Item = Self> {
        (1..=9).flat_map(|level| FAMILIES.into_iter().map(move |family| Self { family, level }))
    }

    fn predictor(self) -> chains::Predictor {
        let hash_bits = match self.family {
            Family::Zlib | Family::Gnu => 15,
            Family::Large => 16,
        };
        chains::Predictor::new(self.level, hash_bits)
    }
}

/// When a block is full.
struct Filling {
    model: Model,
    tokens: usize,
    matches: usize,
    /// What distances take at five bits a code.
    distance_bits: u64,
}

impl Filling {
    fn new(model: Model) -> Self {
        Self { model, tokens: 0, matches: 0, distance_bits: 0 }
    }

    /// Whether it is with this token, which begins so many bytes behind the begin of the block.
    fn is_full_with(&mut self, token: Token, place: usize) -> bool {
        self.tokens += 1;
        if let Token::Match(_, distance) = token {
            self.matches += 1;
            self.distance_bits += 5 + u64::from(distance_code(distance).1);
        }
        let level = self.model.level;
        match self.model.family {
            Family::Zlib => self.tokens == (1 << 14) - 1,
            Family::Large => self.tokens == (1 << 15) - 1,
            Family::Gnu => {
                // It guesses whether to begin another block pays, from what has been looked at so far.
                let seen = (place + usize::from(level > 3)) as u64;
                let packed = (self.tokens as u64 * 8 + self.distance_bits) / 8;
                let pays = || self.matches < self.tokens / 2 && packed < seen / 2;
                level > 2 && self.tokens.is_multiple_of(4096) && pays() || self.tokens == (1 << 15) - 1
            }
        }
    }
}
