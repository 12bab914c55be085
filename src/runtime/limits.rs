//! What a container may use: what docker refuses of it (moby `daemon/daemon_unix.go`, `verifyPlatformContainerSettings`), and
//! what `update` changes (`container/container_unix.go`, `UpdateContainer`). As in docker's `HostConfig`, of which this is a
//! part, 0 and an empty text are not given.

use super::container::HostConfig;
use super::error::{RuntimeError, While};

/// The least memory that a container can be limited to, in bytes.
const LEAST_MEMORY: i64 = 6 << 20;
/// The CPU scheduler's shortest and longest period, in microseconds.
const PERIODS: std::ops::RangeInclusive<u64> = 1000..=1_000_000;

fn refused(why: impl Into<String>) -> Result<(), RuntimeError> {
    Err(RuntimeError::usage(why))
}

/// Fails for what makes no sense on this host: of a new container, or of what an update asks for.
pub fn check(host: &HostConfig) -> Result<(), RuntimeError> {
    check_memory(host)?;
    check_cpus(host)?;
    if host.blkio_weight != 0 && !(10..=1000).contains(&host.blkio_weight) {
        return refused("Range of blkio weight is from 10 to 1000");
    }
    let score = host.oom_score_adj;
    if !(-1000..=1000).contains(&score) {
        return refused(format!("Invalid value {score}, range for oom score adj is [-1000, 1000]"));
    }
    Ok(())
}

fn check_memory(host: &HostConfig) -> Result<(), RuntimeError> {
    if host.memory != 0 && host.memory < LEAST_MEMORY {
        return refused("Minimum memory limit allowed is 6MB");
    }
    if host.memory > 0 && host.memory_swap > 0 && host.memory_swap < host.memory {
        return refused("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if let Some(percent) = host.memory_swappiness.filter(|percent| !(0..=100).contains(percent)) {
        return refused(format!("invalid value: {percent}. Valid memory swappiness range is 0-100"));
    }
    if host.memory_reservation != 0 && host.memory_reservation < LEAST_MEMORY {
        return refused("Minimum memory reservation allowed is 6MB");
    }
    if host.memory > 0 && host.memory_reservation > host.memory {
        return refused("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    Ok(())
}

fn check_cpus(host: &HostConfig) -> Result<(), RuntimeError> {
    if host.nano_cpus > 0 && host.cpu_period > 0 {
        return refused("Conflicting options: Nano CPUs and CPU Period cannot both be set");
    }
    if host.nano_cpus > 0 && host.cpu_quota > 0 {
        return refused("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
    }
    if host.nano_cpus != 0 {
        let most = rustix::thread::sched_getaffinity(None).trying("count the CPUs")?.count();
        // Docker takes less as well; the kernel does not.
        if !(10_000_000..=i64::from(most) * 1_000_000_000).contains(&host.nano_cpus) {
            return refused(format!(
                "Range of CPUs is from 0.01 to {most}.00, as there are only {most} CPUs available"
            ));
        }
    }
    if host.cpu_period != 0 && !PERIODS.contains(&host.cpu_period) {
        return refused("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)");
    }
    if host.cpu_quota > 0 && host.cpu_quota < 1000 {
        return refused("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    let system = "/sys/devices/system";
    there("cpus", "CPUs", &host.cpuset_cpus, &format!("{system}/cpu/online"))?;
    there("mems", "memory nodes", &host.cpuset_mems, &format!("{system}/node/online"))
}

/// Whether the host has all CPUs or memory nodes of a list. `online` is where the kernel tells which there are; what cannot be
/// read is not checked.
fn there(kind: &str, what: &str, wanted: &str, online: &str) -> Result<(), RuntimeError> {
    if wanted.is_empty() {
        return Ok(());
    }
    let Some(ranges) = list(wanted) else { return refused(format!("Invalid value {wanted} for cpuset {kind}")) };
    let effective = std::fs::read_to_string(format!("/sys/fs/cgroup/cpuset.{kind}.effective")).ok();
    let effective = effective.filter(|list| !list.trim().is_empty());
    let Some(online) = effective.or_else(|| std::fs::read_to_string(online).ok()) else { return Ok(()) };
    match list(&online) {
        Some(available) if !among(&ranges, &available) => {
            let online = online.trim();
            refused(format!("Requested {what} are not available - requested {wanted}, available: {online}"))
        }
        _ => Ok(()),
    }
}

/// A list such as `0-3,5` of CPUs or memory nodes, as ranges. Docker has the same bound.
fn list(text: &str) -> Option<Vec<(u16, u16)>> {
    let number = |text: &str| text.parse::<u16>().ok().filter(|number| *number < 8192);
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (number(from)?, number(to)?);
        (from <= to).then_some((from, to))
    };
    text.trim().split(',').map(range).collect()
}

fn among(wanted: &[(u16, u16)], available: &[(u16, u16)]) -> bool {
    let has = |number: u16| available.iter().any(|(from, to)| (*from..=*to).contains(&number));
    wanted.iter().all(|(from, to)| (*from..=*to).all(has))
}

/// Changes a container's limits to those that are asked for; what is not given stays.
pub fn update(host: &mut HostConfig, asked: &HostConfig) -> Result<(), RuntimeError> {
    fn set<T: Clone + Default + PartialEq>(to: &mut T, asked: &T) {
        if *asked != T::default() {
            to.clone_from(asked);
        }
    }
    let conflicts = [
        (asked.nano_cpus > 0 && host.cpu_period > 0, "Nano CPUs cannot be updated as CPU Period has already been set"),
        (asked.nano_cpus > 0 && host.cpu_quota > 0, "Nano CPUs cannot be updated as CPU Quota has already been set"),
        (asked.cpu_period > 0 && host.nano_cpus > 0, "CPU Period cannot be updated as NanoCPUs has already been set"),
        (asked.cpu_quota > 0 && host.nano_cpus > 0, "CPU Quota cannot be updated as NanoCPUs has already been set"),
    ];
    if let Some((_, why)) = conflicts.iter().find(|(is, _)| *is) {
        return refused(format!("Conflicting options: {why}"));
    }
    let swap = if asked.memory_swap == 0 { host.memory_swap } else { asked.memory_swap };
    let memory = if asked.memory == 0 { host.memory } else { asked.memory };
    // -1 is no limit.
    if swap != -1 && memory > swap && (asked.memory != 0 || asked.memory_swap != 0) {
        return refused(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        );
    }
    set(&mut host.memory, &asked.memory);
    set(&mut host.memory_swap, &asked.memory_swap);
    set(&mut host.memory_reservation, &asked.memory_reservation);
    set(&mut host.nano_cpus, &asked.nano_cpus);
    set(&mut host.cpu_shares, &asked.cpu_shares);
    set(&mut host.cpu_period, &asked.cpu_period);
    set(&mut host.cpu_quota, &asked.cpu_quota);
    set(&mut host.cpuset_cpus, &asked.cpuset_cpus);
    set(&mut host.cpuset_mems, &asked.cpuset_mems);
    set(&mut host.blkio_weight, &asked.blkio_weight);
    if let Some(limit) = asked.pids_limit {
        // Docker has 0 for none.
        host.pids_limit = Some(limit.max(0));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_refuses_is_refused_in_its_words() {
        type Change = fn(&mut HostConfig);
        let cases: [(Change, &str); 15] = [
            (|host| host.memory = 1 << 20, "Minimum memory limit allowed is 6MB"),
            (
                |host| (host.memory, host.memory_swap) = (20 << 20, 10 << 20),
                "Minimum memoryswap limit should be larger",
            ),
            (|host| host.memory_swappiness = Some(101), "invalid value: 101. Valid memory swappiness range is 0-100"),
            (|host| host.memory_swappiness = Some(-2), "invalid value: -2. Valid memory swappiness range is 0-100"),
            (|host| host.memory_reservation = 1 << 20, "Minimum memory reservation allowed is 6MB"),
            (
                |host| (host.memory, host.memory_reservation) = (10 << 20, 20 << 20),
                "Minimum memory limit can not be less than memory reservation limit, see usage",
            ),
            (
                |host| (host.nano_cpus, host.cpu_period) = (10_000_000, 5000),
                "Nano CPUs and CPU Period cannot both be set",
            ),
            (
                |host| (host.nano_cpus, host.cpu_quota) = (10_000_000, 5000),
                "Nano CPUs and CPU Quota cannot both be set",
            ),
            (|host| host.nano_cpus = 4000 * 1_000_000_000, "Range of CPUs is from 0.01 to"),
            (|host| host.cpu_period = 999, "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s"),
            (|host| host.cpu_quota = 999, "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
            (|host| host.cpuset_cpus = "x".into(), "Invalid value x for cpuset cpus"),
            (
                |host| host.cpuset_cpus = "8191".into(),
                "Requested CPUs are not available - requested 8191, available: 0",
            ),
            (|host| host.blkio_weight = 5, "Range of blkio weight is from 10 to 1000"),
            (|host| host.oom_score_adj = 5000, "Invalid value 5000, range for oom score adj is [-1000, 1000]"),
        ];
        for (change, expected) in cases {
            let mut host = HostConfig::default();
            change(&mut host);
            let failed = check(&host).expect_err(expected).to_string();
            assert!(failed.contains(expected), "{expected}: {failed}");
        }
    }

    #[test]
    fn what_docker_takes_is_taken() {
        let cases: [fn(&mut HostConfig); 8] = [
            |_| {},
            |host| host.memory_reservation = 20 << 20,
            |host| (host.memory, host.memory_swap) = (20 << 20, -1),
            |host| host.cpu_quota = -1,
            |host| (host.cpu_period, host.cpu_quota) = (1000, 1000),
            |host| (host.nano_cpus, host.cpu_quota) = (10_000_000, -1),
            |host| (host.oom_score_adj, host.blkio_weight) = (-1000, 1000),
            |host| host.cpuset_cpus = "0".into(),
        ];
        for (number, change) in cases.into_iter().enumerate() {
            let mut host = HostConfig::default();
            change(&mut host);
            assert!(check(&host).is_ok(), "{number}");
        }
    }

    #[test]
    fn an_update_changes_what_it_gives_and_nothing_else() {
        let mut host =
            HostConfig { memory: 64 << 20, memory_swap: 128 << 20, cpu_shares: 512, ..HostConfig::default() };
        let asked = |change: fn(&mut HostConfig)| {
            let mut asked = HostConfig::default();
            change(&mut asked);
            asked
        };
        update(&mut host, &asked(|host| (host.memory, host.pids_limit) = (100 << 20, Some(-1)))).unwrap();
        assert_eq!((host.memory, host.memory_swap, host.cpu_shares), (100 << 20, 128 << 20, 512));
        assert_eq!(host.pids_limit, Some(0));
        update(&mut host, &asked(|host| host.nano_cpus = 10_000_000)).unwrap();
        let before = host.clone();
        for (change, word) in [
            (asked(|host| host.memory = 200 << 20), "already set memoryswap"),
            (asked(|host| host.memory_swap = 50 << 20), "already set memoryswap"),
            (asked(|host| host.cpu_period = 5000), "CPU Period cannot be updated"),
            (asked(|host| host.cpu_quota = 5000), "CPU Quota cannot be updated"),
        ] {
            let failed = update(&mut host, &change).unwrap_err().to_string();
            assert!(failed.contains(word) && host == before, "{failed}");
        }
        update(&mut host, &asked(|host| host.memory_swap = -1)).unwrap();
        update(&mut host, &asked(|host| host.memory = 200 << 20)).unwrap();
        let mut host = HostConfig { cpu_quota: 5000, cpu_period: 5000, ..HostConfig::default() };
        assert!(update(&mut host, &asked(|host| host.nano_cpus = 10_000_000)).is_err());
    }

    #[test]
    fn lists_are_ranges_among_those_there_are() {
        for (text, expected) in [
            ("0", Some(vec![(0, 0)])),
            ("0-1,5", Some(vec![(0, 1), (5, 5)])),
            ("", None),
            ("1-0", None),
            ("9999", None),
            ("x", None),
        ] {
            assert_eq!(list(text), expected, "{text}");
        }
        for (wanted, is) in [("0-1", true), ("3", true), ("2", false), ("0-3", false), ("99", false)] {
            assert_eq!(among(&list(wanted).unwrap(), &list("0-1,3").unwrap()), is, "{wanted}");
        }
    }
}
