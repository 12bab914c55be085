//! Raw system calls: the only place with `unsafe`.

pub mod lock;
pub mod signal;
