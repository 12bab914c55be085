//! How hard the levels of zlib look for matches, which Go has taken over for its own from 4 on.

/// What a level means: when to search less, when to stop looking one byte further (zlib, at levels up to 3: the longest
/// match all of whose places are noted), when to be content, how long to search.
pub struct Effort {
    pub good: usize,
    pub lazy: usize,
    pub nice: usize,
    pub chain: usize,
}

impl Effort {
    /// Of zlib's level; of 9 for what is above.
    pub fn of_zlib(level: u8) -> Self {
        let (good, lazy, nice, chain) = match level {
            1 => (4, 4, 8, 4),
            2 => (4, 5, 16, 8),
            3 => (4, 6, 32, 32),
            4 => (4, 4, 16, 16),
            5 => (8, 16, 32, 32),
            6 => (8, 16, 128, 128),
            7 => (8, 32, 128, 256),
            8 => (32, 128, 258, 1024),
            _ => (32, 258, 258, 4096),
        };
        Self { good, lazy, nice, chain }
    }

    /// Of Go's level; what is none from 4 to 9 is its default.
    pub fn of_go(level: u8) -> Self {
        Self::of_zlib(if (4..=9).contains(&level) { level } else { 6 })
    }
}
