//! The integration tests: one binary, a module for each area.

mod archive;
mod bundle;
mod cli;
mod carry;
mod dependencies;
mod fuzz;
mod interop;
mod layer;
mod layering;
mod media;
mod net;
mod peers;
mod seal;
mod send;
mod ssh;
mod readme;
mod replay;
mod runtime;
mod runtime_show;
mod static_binary;
mod store;
mod store_faults;
mod store_peers;
mod support;
mod vectors;
mod volumes;
