//! What a running container uses of the machine.

use std::fs;

use super::cgroup::Stats;
use super::container::{Container, ContainerDir};
use super::start;

/// The use at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// What its control group says.
    pub group: Stats,
    /// The memory it may have in bytes: its limit, or the machine's.
    pub limit: u64,
    /// Bytes received over its network.
    pub received: u64,
    /// Bytes sent over it.
    pub sent: u64,
}

/// What a container uses now; `None` when it does not run.
pub fn of(dir: &ContainerDir, container: &Container) -> Option<Usage> {
    let state = dir.state().ok().filter(|state| state.status.has_process())?;
    let group = start::cgroup(container).stats();
    let (received, sent) = network(state.pid);
    Some(Usage { group, limit: group.memory_limit.min(machine_memory()), received, sent })
}

fn machine_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: Option<u64> = line.and_then(|line| line.split_whitespace().next()).and_then(|word| word.parse().ok());
    kib.map_or(u64::MAX, |kib| kib.saturating_mul(1024))
}

/// All but the loopback, as the process sees it.
fn network(pid: i32) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let links = text.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.trim() != "lo");
    links.fold((0, 0), |(received, sent), (_, numbers)| {
        let number = |at| numbers.split_whitespace().nth(at).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        (received + number(0), sent + number(8))
    })
}
