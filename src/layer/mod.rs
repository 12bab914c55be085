//! A layer as a tar stream and as a split layer.

pub mod compression;
mod pgzip;

pub use compression::Compression;
