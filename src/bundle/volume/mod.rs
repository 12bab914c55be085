//! The container of a bundle: one logical byte stream as one or many volumes, with block checksums and parity.
//!
//! The layout is specified in docs/format/volumes.md. A stream is written through [`SetWriter`]; [`VolumeSet::open`]
//! finds its volumes again, [`SetReader`] reads it anywhere, [`check()`] locates damage and [`repair()`] mends it.

mod bytes;
mod check;
mod code;
mod copy;
mod error;
mod find;
mod head;
mod layout;
mod parity;
mod part;
mod read_back;
mod reader;
mod record;
mod repair;
mod set;
mod size;
mod slice;
mod units;
mod writer;

pub use check::{Damage, Report, State, VolumeReport, check};
pub use code::Budget;
pub use copy::{Copied, CopyOptions, copy};
pub use error::{Damaged, VolumeError};
pub use find::is_one_of_several;
pub use head::SetId;
pub use layout::Extent;
pub use read_back::read_back;
pub use reader::SetReader;
pub use record::Root;
pub use repair::{Restored, repair, restore};
pub use set::VolumeSet;
pub use size::{ENDING, Names, ParityShare, VolumeSize, has_ending};
pub use slice::{Slice, trailer};
pub use writer::{SetWriter, SignWith, WriteOptions, Written, fits_a_pipe, refuse_numbered};
