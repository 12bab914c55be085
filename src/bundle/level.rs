//! How hard a bundle is compressed, and what that costs.

use std::str::FromStr;

/// A compression level: one of the three that have names, or zstd's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(i32);

/// A text that is not a level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a level: fast, default, max, or 1 to 22")]
pub struct LevelError(String);

impl Level {
    /// As fast as a plain archive is compressed, and far smaller.
    pub const FAST: Self = Self(3);
    /// Eight releases of one application take 0.90 of what `zstd -3 --long=31` makes of their archive.
    pub const DEFAULT: Self = Self(6);
    /// Eight releases of one application become smaller than `zstd -19 --long=31` makes their archive, in less than half its time.
    pub const MAX: Self = Self(19);

    /// zstd's level of this number, at least 1 and at most 22.
    pub const fn of(number: i32) -> Self {
        Self(if number < 1 {
            1
        } else if number > 22 {
            22
        } else {
            number
        })
    }

    /// zstd's number.
    pub fn number(self) -> i32 {
        self.0
    }

    /// How many bytes of objects go into one frame. Decides the bytes of a bundle, so it follows from the level alone.
    pub(crate) fn frame_bytes(self) -> usize {
        64 << 20
    }

    /// The level for recipes and the index: they are small, and every reader waits for them.
    pub(crate) fn for_metadata(self) -> Self {
        Self(if self.0 < Self::DEFAULT.0 { 6 } else { 19 })
    }

    /// Whether matches over a long distance are looked for. Versions of one path are neighbours anyway: for the fastest it
    /// would take a quarter more time for 3 % in size.
    pub(crate) fn long_distance(self) -> bool {
        self.0 > Self::FAST.0
    }

    /// What compressing one frame takes, in bytes of memory: `raw` bytes of objects, a prefix, what comes out, zstd's tables.
    pub(crate) fn frame_cost(self, raw: u64, prefix: u64) -> u64 {
        // Measured: 12 MiB at level 6, 14 at 8, 30 at 11, 50 at 12, 114 at 19. The strong levels keep a tree over the whole
        // window.
        let tables: u64 = match self.0 {
            ..=8 => 16 << 20,
            9..=11 => 32 << 20,
            12 => 56 << 20,
            _ => 128 << 20,
        };
        // Behind a prefix the window is twice as long, and more is remembered of it.
        let behind = if prefix > 0 { 16 << 20 } else { 0 };
        raw + prefix + raw / 2 + tables + behind
    }
}

impl Default for Level {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl FromStr for Level {
    type Err = LevelError;

    fn from_str(text: &str) -> Result<Self, LevelError> {
        match text {
            "fast" => Ok(Self::FAST),
            "default" => Ok(Self::DEFAULT),
            "max" => Ok(Self::MAX),
            number => match number.parse() {
                Ok(level @ 1..=22) => Ok(Self(level)),
                _ => Err(LevelError(text.chars().take(40).collect())),
            },
        }
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}
