//! ferry carries container images across an air gap, and runs them on the other side.
//!
//! A module imports only from modules above it in this list; a test enforces that.
#![warn(missing_docs)]
#![deny(unsafe_code)]

pub mod base;
#[allow(unsafe_code)]
pub mod sys;
pub mod image;
pub mod layer;
pub mod archive;
pub mod bundle;
pub mod store;
pub mod transfer;
pub mod runtime;
pub mod ops;
// The doc comments of arguments are help texts, whose brackets are no links.
#[allow(rustdoc::broken_intra_doc_links)]
pub mod cli;
