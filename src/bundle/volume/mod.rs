//! The container of a bundle: one logical byte stream as one or many volumes, with block checksums and parity.
//!
//! The layout is specified in docs/format/volumes.md; the stream is written through [`SetWriter`] and read through
//! [`crate::base::read_at::ReadAt`].

mod bytes;
mod code;
mod error;
mod head;
mod layout;
mod parity;
mod part;
mod record;
mod size;
mod writer;

pub use code::Budget;
pub use error::{Damaged, VolumeError};
pub use head::SetId;
pub use record::Root;
pub use size::{ENDING, Names, ParityShare, VolumeSize};
pub use writer::{SetWriter, SignWith, WriteOptions, Written};
