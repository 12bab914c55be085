//! Flags that docker refuses, in its words: those that conflict, and values out of their range (moby `runconfig`,
//! `daemon/container.go`). What is wrong with limits and mounts is known where the container is made.

use super::ContainerFlags;
use super::values::usage;
use crate::runtime::container::Containers;
use crate::runtime::create::Request;
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
        self.check_health()
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
}

/// Modes of `-v`, one of each kind (moby `volume/mounts/linux_parser.go`).
const MODES: [&[&str]; 5] = [
    &["ro", "rw"],
    &["z", "Z"],
    &["private", "rprivate", "shared", "rshared", "slave", "rslave"],
    &["nocopy"],
    &["consistent", "cached", "delegated"],
];

/// What docker's daemon, not its client, refuses of mounts.
pub fn mounts(request: &Request) -> Result<(), RuntimeError> {
    for mode in request.volumes.iter().filter_map(|text| text.split(':').nth(2)).filter(|mode| !mode.is_empty()) {
        let mut kinds = Vec::new();
        for word in mode.split(',') {
            match MODES.iter().position(|kind| kind.contains(&word)) {
                Some(kind) if !kinds.contains(&kind) => kinds.push(kind),
                _ => return Err(usage(format!("invalid mode: {mode}"))),
            }
        }
    }
    let mut mounts = request.host_config.mounts.iter().flatten();
    if mounts.any(|mount| mount.kind == "tmpfs" && !mount.source.is_empty()) {
        return Err(usage("invalid mount config for type \"tmpfs\": field Source must not be specified"));
    }
    Ok(())
}

/// In the default network only containers that are in it too can be linked to.
pub fn links(request: &Request, containers: &Containers) -> Result<(), RuntimeError> {
    if request.host_config.network_mode != NetworkMode::Default {
        return Ok(());
    }
    for text in request.host_config.links.iter().flatten() {
        let mut other = containers.find(text.split(':').next().unwrap_or_default())?.container()?;
        let name = other.name.clone();
        // Whose network is another's is linked to there; a container cannot wait for itself, so this ends.
        while let NetworkMode::Container(id) = &other.host_config.network_mode {
            other = containers.find(id)?.container()?;
        }
        if other.host_config.network_mode != NetworkMode::Default && !other.endpoints.contains_key("bridge") {
            return Err(usage(format!("Cannot link to /{name}, as it does not belong to the default network")));
        }
    }
    Ok(())
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

    fn resolved(words: &[&str]) -> Result<Request, String> {
        let line = ["run"].iter().chain(words).chain(&["image"]);
        let request = Line::try_parse_from(line).unwrap().flags.resolve(false).map_err(|error| error.to_string())?;
        mounts(&request).map_err(|error| error.to_string())?;
        Ok(request)
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
            (&["--volumes-from", "c:bad"], "invalid mode: bad"),
            (&["-a", "stdlog"], "valid streams are STDIN, STDOUT and STDERR"),
            (&["--health-interval", "1us"], "Interval in Healthcheck cannot be less than 1ms"),
            (&["--health-timeout", "999us"], "Timeout in Healthcheck cannot be less than 1ms"),
            (&["--label", "=x"], "invalid label '=x': empty name"),
            (&["--cpu-shares", "1"], "the minimum allowed cpu-shares is 2"),
            (&["--cpu-shares", "262145"], "the maximum allowed cpu-shares is 262144"),
            (&["-v", "/a:/x:ro,rw"], "invalid mode: ro,rw"),
            (&["-v", "/a:/x:z,Z"], "invalid mode: z,Z"),
            (&["-v", "/a:/x:nonsense"], "invalid mode: nonsense"),
            (&["--mount", "type=tmpfs,src=foo,dst=/x"], "field Source must not be specified"),
            (&["--network", "a", "--network", "a"], "network \"a\" is specified multiple times"),
            (
                &["--network", "name=a,ip=10.0.0.9", "--ip", "10.0.0.8"],
                "conflicting options: cannot specify both --ip and per-network IPv4 address",
            ),
        ] {
            let failed = resolved(words).expect_err(&words.join(" "));
            assert!(failed.contains(expected), "{words:?}: {failed}");
        }
    }

    #[test]
    fn what_docker_takes_is_taken() {
        for words in [
            &["--network=container:x"][..],
            &["--network=host", "-h", "a", "-p", "80"],
            &["--memory-swappiness", "-1"],
            &["--stop-timeout", "-1"],
            &["-a", "STDIN", "-a", "stdout"],
            &["--health-interval", "0s"],
            &["--health-interval", "1ms"],
            &["-p", "0:80"],
            &["-v", "/a:/x:ro,z,rslave,cached", "-v", "b:/y:nocopy"],
        ] {
            assert!(resolved(words).is_ok(), "{words:?}");
        }
        assert_eq!(resolved(&["--memory-swappiness", "-1"]).unwrap().host_config.memory_swappiness, None);
        assert_eq!(resolved(&["--memory-swappiness", "-2"]).unwrap().host_config.memory_swappiness, Some(-2));
        assert_eq!(resolved(&["--stop-timeout", "-1"]).unwrap().config.stop_timeout, Some(-1));
        let limits = resolved(&["-m", "10m", "--pids-limit", "-1"]).unwrap().host_config;
        assert_eq!((limits.memory, limits.memory_swap, limits.pids_limit), (10 << 20, 20 << 20, None));
        let request =
            resolved(&["--network", "name=a,alias=b", "--network", "name=c,ip=10.0.0.9", "--ip", "10.1.0.9"]).unwrap();
        let [a, c] = ["a", "c"].map(|name| request.endpoints.get(name).unwrap());
        assert_eq!((a.aliases.as_slice(), a.ip.unwrap().to_string()), (&["b".to_owned()][..], "10.1.0.9".to_owned()));
        assert_eq!(c.ip.unwrap().to_string(), "10.0.0.9");
    }
}
