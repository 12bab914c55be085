//! Limits on what comes from outside. Each is far above what real images hold and far below what hurts.

use std::io::{self, Read};

use super::error::{Class, Fault};

/// Manifest and index documents, in bytes; the distribution specification asks registries to take 4 MiB.
pub const MANIFEST_BYTES: u64 = 4 << 20;
/// Image configs, in bytes.
pub const CONFIG_BYTES: u64 = 16 << 20;
/// `manifest.json`, `index.json` and `repositories` of an archive, in bytes.
pub const ARCHIVE_INDEX_BYTES: u64 = 64 << 20;
/// Layers of one image. overlay2 mounts at most 128 lower directories, one of which may be an init layer.
pub const LAYERS: usize = 127;
/// Images in one archive or bundle.
pub const IMAGES: usize = 65_536;
/// Names of one image.
pub const NAMES: usize = 4_096;
/// Entries of one archive (not of a layer).
pub const ARCHIVE_ENTRIES: usize = 1 << 20;
/// Entries of one layer.
pub const LAYER_ENTRIES: u64 = 16 << 20;
/// A path inside a layer or an archive, in bytes (Linux's PATH_MAX less its NUL).
pub const PATH_BYTES: usize = 4_095;
/// One component of a path, in bytes (Linux's NAME_MAX).
pub const NAME_BYTES: usize = 255;
/// The metadata of one tar entry (PAX records, GNU long names), in bytes.
pub const TAR_METADATA_BYTES: u64 = 1 << 20;
/// One extended attribute's value, in bytes (Linux's XATTR_SIZE_MAX).
pub const XATTR_BYTES: usize = 65_536;
/// How many levels of index inside index are followed.
pub const INDEX_DEPTH: usize = 4;
/// The zstd window that is accepted unless the user says otherwise, as a power of two (128 MiB).
pub const ZSTD_WINDOW_LOG: u32 = 27;

/// Something from outside is over its limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is over the limit of {limit} {unit}")]
pub struct OverLimit {
    /// What is too large or too many.
    pub what: String,
    /// The limit.
    pub limit: u64,
    /// Its unit, in the plural.
    pub unit: &'static str,
}

impl Fault for OverLimit {
    fn class(&self) -> Class {
        Class::Malformed
    }
}

/// Reads all of `reader`, which must not hold more than `limit` bytes.
pub fn read_all(reader: &mut dyn Read, limit: u64, what: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let over = OverLimit { what: what.to_owned(), limit, unit: "bytes" };
        return Err(io::Error::new(io::ErrorKind::InvalidData, over));
    }
    Ok(bytes)
}
