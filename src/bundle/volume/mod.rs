//! The container of a bundle: one logical byte stream as one or many volumes, with block checksums and parity.

mod read_at;

pub use read_at::{Cursor, FileAt, ReadAt};
