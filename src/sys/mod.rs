//! Raw system calls: the only place with `unsafe`.

pub mod signal;
