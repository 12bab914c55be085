//! A layer as a tar stream and as a split layer.

pub mod compression;
pub mod tar;
pub mod tar_split;
mod pgzip;

pub use compression::Compression;
