//! The integration tests: one binary, a module for each area.

mod dependencies;
mod layering;
mod peers;
mod static_binary;
mod support;
