//! The native format: every content once, over all images, in few bytes; see `docs/format/bundle.md`.

pub mod base;
pub mod carry;
mod catalog;
mod cut;
mod delta;
pub mod error;
mod frame;
pub mod index;
pub mod inventory;
mod layout;
pub mod level;
pub mod outline;
mod parallel;
mod pieces;
mod plan;
pub mod read;
mod reader;
mod recipe;
pub mod seal;
pub mod source;
mod spool;
pub mod tree;
pub mod volume;
pub mod write;

pub use base::{BaseContents, KnownBase};
pub use error::BundleError;
pub use inventory::Inventory;
pub use layout::is_bundle;
pub use level::Level;
pub use read::{Bundle, open_file};
pub use source::BundleSource;
pub use write::{BundleOptions, BundleReport, BundleSink};
