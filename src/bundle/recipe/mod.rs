//! Recipes: how a layer's tar is put together from its contents, in few bytes (docs/format/bundle.md, "Recipes").

mod decode;
mod encode;
mod header;

pub(crate) use decode::{Piece, RecipeReader};
pub(crate) use encode::{Recipe, RecipeEncoder};

/// The tar block.
const BLOCK: usize = 512;

/// The ops, as the specification numbers them.
mod op {
    pub const HEADER: u8 = 0;
    pub const HEADER_CONTENT_PAD: u8 = 1;
    pub const CONTENT_PAD: u8 = 2;
    pub const CONTENT: u8 = 3;
    pub const ZEROS: u8 = 4;
    pub const RAW: u8 = 5;
    pub const RAW_PAD: u8 = 6;
    pub const HEADER_CONTENT: u8 = 7;
}

/// BLAKE3 of a layer's segments, one after the other. They are short: gathered first, many chunks of a hash are computed at
/// once.
#[derive(Debug, Default)]
pub(crate) struct SegmentHasher {
    hasher: blake3::Hasher,
    gathered: Vec<u8>,
}

impl SegmentHasher {
    const GATHERED: usize = 64 << 10;

    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= Self::GATHERED {
            self.hasher.update(&self.gathered);
            self.gathered.clear();
        }
    }

    /// As many zeros.
    pub fn zeros(&mut self, mut count: u64) {
        while count > 0 {
            let n = count.min((Self::GATHERED - self.gathered.len()) as u64);
            self.gathered.resize(self.gathered.len() + n as usize, 0);
            self.update(&[]);
            count -= n;
        }
    }

    /// The hash of all.
    pub fn finish(mut self) -> blake3::Hash {
        self.hasher.update(&self.gathered);
        self.hasher.finalize()
    }
}

/// Zeros from `at` up to a multiple of the tar block.
fn padding(at: u64) -> u64 {
    at.next_multiple_of(BLOCK as u64) - at
}

#[cfg(test)]
mod tests;
