//! Flags that docker refuses, in its words: those that conflict, and values out of their range (moby `runconfig`,
//! `daemon/daemon_unix.go`, `daemon/container.go`).

use std::collections::BTreeSet;

use super::ContainerFlags;
use super::values::{cpu_list, usage};
use crate::runtime::create::clean_path;
use crate::runtime::{NetworkMode, RuntimeError};

/// Docker's shortest time of a health check.
const SHORTEST: i64 = 1_000_000;

impl ContainerFlags {
    /// What can be known to be wrong from the flags alone.
    pub(super) fn check(&self, mode: &NetworkMode) -> Result<(), RuntimeError> {
        let known =
            |stream: &String| ["stdin", "stdout", "stderr"].iter().any(|known| stream.eq_ignore_ascii_case(known));
        if !self.attach.iter().all(known) {
            return Err(usage("valid streams are STDIN, STDOUT and STDERR"));
        }
        self.check_network(mode)?;
        self.check_health()?;
        self.check_memory()?;
        self.check_cpus()?;
        if let Some(score) = self.oom_score_adj.filter(|score| !(-1000..=1000).contains(score)) {
            return Err(usage(format!("Invalid value {score}, range for oom score adj is [-1000, 1000]")));
        }
        self.check_mounts()
    }

    fn check_network(&self, mode: &NetworkMode) -> Result<(), RuntimeError> {
        let shared = matches!(mode, NetworkMode::Container(_));
        let host = *mode == NetworkMode::Host;
        let links = "links. This would result in undefined behavior";
        let conflicts = [
            (shared && self.hostname.is_some(), "hostname and the network mode".to_owned()),
            (self.uts.as_deref() == Some("host") && self.hostname.is_some(), "hostname and the UTS mode".to_owned()),
            (shared && !self.link.is_empty(), format!("container type network can't be used with {links}")),
            (host && !self.link.is_empty(), format!("host type networking can't be used with {links}")),
            (shared && !self.dns.is_empty(), "dns and the network mode".to_owned()),
            (shared && !self.add_host.is_empty(), "custom host-to-IP mapping and the network mode".to_owned()),
            (
                shared && (!self.publish.is_empty() || self.publish_all),
                "port publishing and the container type network mode".to_owned(),
            ),
            (shared && !self.expose.is_empty(), "port exposing and the container type network mode".to_owned()),
        ];
        match conflicts.into_iter().find(|(is, _)| *is) {
            Some((_, what)) => Err(usage(format!("conflicting options: {what}"))),
            None => Ok(()),
        }
    }

    fn check_health(&self) -> Result<(), RuntimeError> {
        if self.health_retries.is_some_and(|retries| retries < 0) {
            return Err(usage("--health-retries cannot be negative"));
        }
        let times = [
            ("Interval", self.health_interval),
            ("Timeout", self.health_timeout),
            ("StartPeriod", self.health_start_period),
            ("StartInterval", self.health_start_interval),
        ];
        // 0 is the image's, or docker's.
        match times.iter().find(|(_, time)| time.is_some_and(|time| time != 0 && time < SHORTEST)) {
            Some((name, _)) => Err(usage(format!("{name} in Healthcheck cannot be less than 1ms"))),
            None => Ok(()),
        }
    }

    fn check_memory(&self) -> Result<(), RuntimeError> {
        if let Some(percent) = self.memory_swappiness.filter(|percent| !(-1..=100).contains(percent)) {
            return Err(usage(format!("invalid value: {percent}. Valid memory swappiness range is 0-100")));
        }
        let (limit, reservation) = (self.memory.unwrap_or(0), self.memory_reservation.unwrap_or(0));
        if limit > 0 && reservation > limit {
            return Err(usage("Minimum memory limit can not be less than memory reservation limit, see usage"));
        }
        Ok(())
    }

    fn check_cpus(&self) -> Result<(), RuntimeError> {
        if self.cpu_period.is_some_and(|period| period != 0 && !(1000..=1_000_000).contains(&period)) {
            return Err(usage("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"));
        }
        if self.cpu_quota.is_some_and(|quota| quota > 0 && quota < 1000) {
            return Err(usage("CPU cfs quota can not be less than 1ms (i.e. 1000)"));
        }
        let system = "/sys/devices/system";
        there("cpus", "CPUs", self.cpuset_cpus.as_deref(), &format!("{system}/cpu/online"))?;
        there("mems", "memory nodes", self.cpuset_mems.as_deref(), &format!("{system}/node/online"))
    }

    /// One thing a place. A volume that is only named by its place yields to any other.
    fn check_mounts(&self) -> Result<(), RuntimeError> {
        let places = self.volume.iter().filter_map(|text| text.split(':').nth(1));
        let places = places.chain(self.tmpfs.iter().map(|text| text.split(':').next().unwrap_or_default()));
        let mounted: Vec<String> = self.mount.iter().filter_map(|text| target(text)).collect();
        let mut seen = BTreeSet::new();
        for place in places.chain(mounted.iter().map(String::as_str)) {
            // What is no path is told where it is read.
            let Ok(place) = clean_path(place) else { continue };
            if seen.contains(&place) {
                return Err(usage(format!("Duplicate mount point: {place}")));
            }
            seen.insert(place);
        }
        Ok(())
    }
}

/// Where a `--mount` is. What else is wrong with it is told where it is read.
fn target(text: &str) -> Option<String> {
    super::values::mount(text).ok().map(|mount| mount.target)
}

/// Whether the host has all CPUs or memory nodes of a list. `online` is where the kernel tells which there are; what cannot be read
/// is not checked.
fn there(kind: &str, what: &str, wanted: Option<&str>, online: &str) -> Result<(), RuntimeError> {
    let Some(wanted) = wanted.filter(|list| !list.is_empty()) else { return Ok(()) };
    let ranges = cpu_list(wanted).ok_or_else(|| usage(format!("Invalid value {wanted} for cpuset {kind}")))?;
    let effective = std::fs::read_to_string(format!("/sys/fs/cgroup/cpuset.{kind}.effective")).ok();
    let effective = effective.filter(|list| !list.trim().is_empty());
    let Some(online) = effective.or_else(|| std::fs::read_to_string(online).ok()) else { return Ok(()) };
    match cpu_list(&online) {
        Some(available) if !among(&ranges, &available) => {
            Err(usage(format!("Requested {what} are not available - requested {wanted}, available: {}", online.trim())))
        }
        _ => Ok(()),
    }
}

fn among(wanted: &[(u16, u16)], available: &[(u16, u16)]) -> bool {
    let has = |number: u16| available.iter().any(|(from, to)| (*from..=*to).contains(&number));
    wanted.iter().all(|(from, to)| (*from..=*to).all(has))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    #[command(disable_help_flag = true)]
    struct Line {
        #[command(flatten)]
        flags: ContainerFlags,
    }

    fn resolved(words: &[&str]) -> Result<crate::runtime::create::Request, String> {
        let line = ["run"].iter().chain(words).chain(&["image"]);
        Line::try_parse_from(line).unwrap().flags.resolve(false).map_err(|error| error.to_string())
    }

    #[test]
    fn what_docker_refuses_is_refused_in_its_words() {
        let shared = "--network=container:x";
        for (words, expected) in [
            (&[shared, "-p", "80"][..], "conflicting options: port publishing and the container type network mode"),
            (&[shared, "-P"], "conflicting options: port publishing and the container type network mode"),
            (&[shared, "--expose", "80"], "conflicting options: port exposing and the container type network mode"),
            (&[shared, "-h", "a"], "conflicting options: hostname and the network mode"),
            (&[shared, "--dns", "1.1.1.1"], "conflicting options: dns and the network mode"),
            (
                &[shared, "--add-host", "a:1.1.1.1"],
                "conflicting options: custom host-to-IP mapping and the network mode",
            ),
            (
                &[shared, "--link", "a"],
                "conflicting options: container type network can't be used with links. This would result in undefined behavior",
            ),
            (&[shared, "--mac-address", "02:42:0a:00:00:09"], "conflicting options: mac-address and the network mode"),
            (&["--uts", "host", "-h", "a"], "conflicting options: hostname and the UTS mode"),
            (&["-v", "/a:/x", "--tmpfs", "/x/"], "Duplicate mount point: /x"),
            (&["-v", "/a:/x", "-v", "/b:/x:ro"], "Duplicate mount point: /x"),
            (&["--mount", "type=tmpfs,target=/x", "--tmpfs", "/x:size=1m"], "Duplicate mount point: /x"),
            (
                &["-m", "10m", "--memory-reservation", "20m"],
                "Minimum memory limit can not be less than memory reservation limit, see usage",
            ),
            (&["--memory-swappiness", "101"], "invalid value: 101. Valid memory swappiness range is 0-100"),
            (&["--memory-swappiness", "-2"], "invalid value: -2. Valid memory swappiness range is 0-100"),
            (&["--volumes-from", "c:bad"], "invalid mode: bad"),
            (&["-a", "stdlog"], "valid streams are STDIN, STDOUT and STDERR"),
            (&["--health-interval", "1us"], "Interval in Healthcheck cannot be less than 1ms"),
            (&["--health-timeout", "999us"], "Timeout in Healthcheck cannot be less than 1ms"),
            (
                &["--cpu-period", "999"],
                "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
            ),
            (&["--cpu-quota", "999"], "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
            (&["--oom-score-adj", "5000"], "Invalid value 5000, range for oom score adj is [-1000, 1000]"),
            (&["--cpuset-cpus", "x"], "Invalid value x for cpuset cpus"),
            (&["--network", "a", "--network", "a"], "network \"a\" is specified multiple times"),
            (
                &["--network", "name=a,ip=10.0.0.9", "--ip", "10.0.0.8"],
                "conflicting options: cannot specify both --ip and per-network IPv4 address",
            ),
        ] {
            let failed = resolved(words).expect_err(&words.join(" "));
            assert!(failed.contains(expected), "{words:?}: {failed}");
        }
        let failed = resolved(&["--cpuset-cpus", "8191"]).unwrap_err();
        assert!(failed.contains("Requested CPUs are not available - requested 8191, available: 0"), "{failed}");
    }

    #[test]
    fn what_docker_takes_is_taken() {
        for words in [
            &["--network=container:x"][..],
            &["--network=host", "-h", "a", "-p", "80"],
            &["-v", "/a:/x", "-v", "/a:/y", "--tmpfs", "/z"],
            &["--memory-swappiness", "-1"],
            &["--memory-reservation", "20m"],
            &["--stop-timeout", "-1"],
            &["-a", "STDIN", "-a", "stdout"],
            &["--health-interval", "0s"],
            &["--health-interval", "1ms"],
            &["--cpu-quota=-1"],
            &["--cpu-period", "1000", "--cpu-quota", "1000"],
            &["--oom-score-adj", "-1000"],
            &["--cpuset-cpus", "0"],
            &["-p", "0:80"],
        ] {
            assert!(resolved(words).is_ok(), "{words:?}");
        }
        assert_eq!(resolved(&["--memory-swappiness", "-1"]).unwrap().host_config.memory_swappiness, None);
        let request =
            resolved(&["--network", "name=a,alias=b", "--network", "name=c,ip=10.0.0.9", "--ip", "10.1.0.9"]).unwrap();
        let [a, c] = ["a", "c"].map(|name| request.endpoints.get(name).unwrap());
        assert_eq!((a.aliases.as_slice(), a.ip.unwrap().to_string()), (&["b".to_owned()][..], "10.1.0.9".to_owned()));
        assert_eq!(c.ip.unwrap().to_string(), "10.0.0.9");
    }

    #[test]
    fn cpus_are_among_those_there_are() {
        for (wanted, is) in [("0-1", true), ("3", true), ("2", false), ("0-3", false), ("99", false)] {
            assert_eq!(among(&cpu_list(wanted).unwrap(), &cpu_list("0-1,3").unwrap()), is, "{wanted}");
        }
    }
}
