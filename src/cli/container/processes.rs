//! A container's processes, also where it has no control group: one of a user to whom none is delegated.

use std::fs;

use crate::runtime::container::Container;
use crate::runtime::usage::Usage;
use crate::runtime::{start, stat};

/// The kernel's clock ticks a second, as it shows them to programs.
pub const TICKS: u64 = 100;

/// The processes, as this process's PID namespace counts them: those of the control group. Without one, those in the PID
/// namespace of the container's program `first`, or, where it shares another's, that program and what it has started.
pub fn of(container: &Container, first: i32) -> Vec<i32> {
    let group = start::cgroup(container);
    if group.exists() {
        return group.pids();
    }
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut all: Vec<i32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    all.sort_unstable();
    if container.host_config.pid_mode.is_empty() {
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = namespace(first);
        all.retain(|pid| own.is_some() && namespace(*pid) == own);
        return all;
    }
    let parents: Vec<(i32, i32)> = all.iter().filter_map(|pid| Some((*pid, parent(*pid)?))).collect();
    let mut found = vec![first];
    loop {
        let known = found.len();
        for (pid, parent) in &parents {
            if found.contains(parent) && !found.contains(pid) {
                found.push(*pid);
            }
        }
        if found.len() == known {
            return found;
        }
    }
}

fn parent(pid: i32) -> Option<i32> {
    stat(pid)?.get(1)?.parse().ok()
}

/// Counts what a container uses, where no control group has: the sums over its processes. Of those that have ended only the
/// processor time is left, as their parents'.
pub fn count(container: &Container, first: i32, usage: &mut Usage) {
    if start::cgroup(container).exists() {
        return;
    }
    for pid in of(container, first) {
        let Some(stat) = stat(pid) else { continue };
        let field = |at: usize| stat.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let keyed = |file: &str, key: &str| -> u64 {
            let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        // Its own in user and in kernel mode, and that of its children that have ended.
        let ticks: u64 = (11..=14).map(field).sum();
        let group = &mut usage.group;
        group.cpu_ns = group.cpu_ns.saturating_add(ticks.saturating_mul(1_000_000_000 / TICKS));
        group.memory = group.memory.saturating_add(keyed("status", "RssAnon").saturating_mul(1024));
        group.pids = group.pids.saturating_add(field(17));
        group.read = group.read.saturating_add(keyed("io", "read_bytes"));
        group.written = group.written.saturating_add(keyed("io", "write_bytes"));
    }
}
