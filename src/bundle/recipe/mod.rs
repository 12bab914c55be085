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

/// Zeros from `at` up to a multiple of the tar block.
fn padding(at: u64) -> u64 {
    at.next_multiple_of(BLOCK as u64) - at
}

#[cfg(test)]
mod tests;
