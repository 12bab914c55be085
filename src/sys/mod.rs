//! Raw system calls: the only place with `unsafe`.

pub mod bpf;
pub mod dir;
pub mod ebpf;
pub mod fs;
pub mod lock;
pub mod memory;
pub mod mount;
pub mod mountinfo;
pub mod netlink;
pub mod nftables;
pub mod process;
pub mod record_lock;
pub mod signal;
pub mod syscalls;
