//! Containers: what one is, its state, and how it is run, changed and ended, without a daemon.
//!
//! A container is a directory `ferry/containers/<id>/` in the store. Its settings (`config.json`) belong to the
//! commands, under the container's lock; its state (`state.json`) belongs to its monitor while that lives. Network
//! state lies in `network.json` beside them.

pub mod capability;
pub mod cgroup;
pub mod changes;
pub mod client;
pub mod connect;
pub mod container;
pub mod copy;
pub mod create;
pub mod error;
pub mod events;
pub mod exec;
pub mod files;
pub mod init;
pub mod inspect;
pub mod leftovers;
pub mod lifecycle;
pub mod limits;
pub mod monitor;
pub mod net;
pub mod network;
pub mod network_mode;
pub mod overlay;
pub mod remove;
pub mod rootless;
pub mod sealed;
pub mod seccomp;
pub mod signals;
pub mod skeleton;
pub mod spec;
pub mod start;
pub mod terminal;
pub mod usage;
pub mod user;
pub mod volumes;

pub use error::RuntimeError;
pub use network_mode::NetworkMode;

/// The time as docker writes it: RFC 3339 with nanoseconds, UTC.
pub fn now() -> String {
    time_text(jiff::Timestamp::now())
}

/// A time as docker writes it.
pub fn time_text(time: jiff::Timestamp) -> String {
    format!("{time:.9}")
}

/// A duration in nanoseconds as Go prints it: `1h0m0s`, `1m30s`, `1.5s`, `20ms`.
pub fn duration_text(nanoseconds: i64) -> String {
    /// A number and so many decimals, without zeros at their end.
    fn decimal(number: u64, decimals: usize) -> String {
        let digits = format!("{number:0>width$}", width = decimals + 1);
        let (whole, fraction) = digits.split_at(digits.len() - decimals);
        format!("{whole}.{fraction}").trim_end_matches('0').trim_end_matches('.').to_owned()
    }
    let number = nanoseconds.unsigned_abs();
    let minutes = number / 60_000_000_000;
    let text = match number {
        0 => "0s".to_owned(),
        1..1_000 => format!("{number}ns"),
        1_000..1_000_000 => decimal(number, 3) + "µs",
        1_000_000..1_000_000_000 => decimal(number, 6) + "ms",
        _ => {
            let seconds = decimal(number % 60_000_000_000, 9) + "s";
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    };
    if nanoseconds < 0 { format!("-{text}") } else { text }
}

/// When a process of the host started, in the kernel's ticks since boot; `None` when there is none of that PID.
pub fn start_time(pid: i32) -> Option<u64> {
    stat(pid)?.get(19)?.parse().ok()
}

/// The fields of a process's `stat` after its name (`proc_pid_stat(5)`, from `state` on).
pub fn stat(pid: i32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, blanks and parentheses too.
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    #[test]
    fn durations_are_printed_as_go_prints_them() {
        for (nanoseconds, expected) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_000_000, "2ms"),
            (1_500_000_000, "1.5s"),
            (30_000_000_000, "30s"),
            (60_000_000_000, "1m0s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (36_000_000_000_001, "10h0m0.000000001s"),
            (-90_000_000_000, "-1m30s"),
        ] {
            assert_eq!(super::duration_text(nanoseconds), expected);
        }
    }
}
