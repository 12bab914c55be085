//! What a group uses.

use std::fs;
use std::path::Path;

use super::{Cgroup, keyed};

/// A group's use of the machine at one moment. What cannot be read is zero, as docker shows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Processor time in nanoseconds.
    pub cpu_ns: u64,
    /// Memory in bytes without the page cache that can go.
    pub memory: u64,
    /// The limit in bytes; `u64::MAX` for none.
    pub memory_limit: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes read from block devices.
    pub read: u64,
    /// Bytes written to block devices.
    pub written: u64,
}

fn number(dir: Option<&Path>, file: &str) -> Option<u64> {
    let text = fs::read_to_string(dir?.join(file)).ok()?;
    if text.trim() == "max" { Some(u64::MAX) } else { text.trim().parse().ok() }
}

pub fn read(cgroup: &Cgroup) -> Stats {
    let dir = |controller: &str| cgroup.dir(controller);
    let mut stats = Stats { memory_limit: u64::MAX, ..Stats::default() };
    if let Some(dir) = cgroup.v2_dir() {
        let at = Some(dir.as_path());
        let cache = keyed(&dir.join("memory.stat"), "inactive_file").unwrap_or(0);
        stats.cpu_ns = keyed(&dir.join("cpu.stat"), "usage_usec").unwrap_or(0).saturating_mul(1000);
        stats.memory = number(at, "memory.current").unwrap_or(0).saturating_sub(cache);
        stats.memory_limit = number(at, "memory.max").unwrap_or(u64::MAX);
        stats.pids = number(at, "pids.current").unwrap_or(0);
        let text = fs::read_to_string(dir.join("io.stat")).unwrap_or_default();
        for pair in text.split_whitespace() {
            if let Some((key, value)) = pair.split_once('=') {
                let value: u64 = value.parse().unwrap_or(0);
                match key {
                    "rbytes" => stats.read = stats.read.saturating_add(value),
                    "wbytes" => stats.written = stats.written.saturating_add(value),
                    _ => {}
                }
            }
        }
        return stats;
    }
    stats.cpu_ns = number(dir("cpuacct").as_deref(), "cpuacct.usage").unwrap_or(0);
    if let Some(memory) = dir("memory") {
        let cache = keyed(&memory.join("memory.stat"), "total_inactive_file").unwrap_or(0);
        stats.memory = number(Some(&memory), "memory.usage_in_bytes").unwrap_or(0).saturating_sub(cache);
        // "No limit" is the largest page-aligned number.
        let limit = number(Some(&memory), "memory.limit_in_bytes").unwrap_or(u64::MAX);
        stats.memory_limit = if limit >= i64::MAX as u64 - (1 << 20) { u64::MAX } else { limit };
    }
    stats.pids = number(dir("pids").as_deref(), "pids.current").unwrap_or(0);
    let file = dir("blkio").map(|dir| dir.join("blkio.throttle.io_service_bytes"));
    let text = file.and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
    for line in text.lines() {
        let mut words = line.split_whitespace().skip(1);
        match (words.next(), words.next().and_then(|n| n.parse::<u64>().ok())) {
            (Some("Read"), Some(n)) => stats.read = stats.read.saturating_add(n),
            (Some("Write"), Some(n)) => stats.written = stats.written.saturating_add(n),
            _ => {}
        }
    }
    stats
}
