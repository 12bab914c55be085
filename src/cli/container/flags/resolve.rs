//! From the flags as typed to a request.

use std::collections::BTreeMap;

use super::ContainerFlags;
use super::values::*;
use crate::base::BoxFault;
use crate::image::config::Healthcheck;
use crate::runtime::container::config::{LogConfig, MountRequest, PortBinding, RestartPolicy, Ulimit};
use crate::runtime::container::{Config, HostConfig};
use crate::runtime::create::Request;
use crate::runtime::net::EndpointRequest;
use crate::runtime::{NetworkMode, RuntimeError};

impl ContainerFlags {
    /// What the flags ask for.
    pub fn resolve(mut self, detached: bool) -> Result<Request, BoxFault> {
        self.volume = self.volume.iter().map(|text| from_here(text)).collect::<Result<_, _>>()?;
        let mut env = Vec::new();
        for file in &self.env_file {
            env.extend(env_lines(&read(file)?)?);
        }
        for text in &self.env {
            // A bare name that is not set here takes the image's value away.
            env.push(env_pair(text)?.unwrap_or_else(|| text.clone()));
        }
        let mut labels = BTreeMap::new();
        for file in &self.label_file {
            labels.extend(key_values(&label_lines(&read(file)?)?));
        }
        self.label.iter().try_for_each(|text| check_label(text))?;
        labels.extend(key_values(&self.label));
        let wants = |stream: &str| self.attach.iter().any(|named| named.eq_ignore_ascii_case(stream));
        let by_default = self.attach.is_empty() && !detached;
        let healthcheck = self.healthcheck();
        if self.no_healthcheck && healthcheck.is_some() {
            return Err(usage("--no-healthcheck conflicts with --health-* options").into());
        }
        let config = Config {
            hostname: self.hostname.clone().unwrap_or_default(),
            domainname: self.domainname.clone().unwrap_or_default(),
            user: self.user.clone().unwrap_or_default(),
            attach_stdin: (by_default && self.interactive) || wants("stdin"),
            attach_stdout: by_default || wants("stdout"),
            attach_stderr: by_default || wants("stderr"),
            exposed_ports: self.exposed()?,
            tty: self.tty,
            open_stdin: self.interactive,
            stdin_once: self.interactive && !detached,
            env,
            cmd: some(self.command()),
            healthcheck,
            image: self.image().to_owned(),
            working_dir: self.workdir.clone().unwrap_or_default(),
            entrypoint: self.entrypoint.clone().filter(|word| !word.is_empty()).map(|word| vec![word]),
            labels,
            stop_signal: self.stop_signal.clone(),
            stop_timeout: self.stop_timeout,
            ..Config::default()
        };
        let (mode, endpoints) = self.networks()?;
        self.check(&mode)?;
        let host_config = self.host_config(mode)?;
        let volumes_from = self.volumes_from.iter().map(|text| volumes_from(text)).collect::<Result<_, _>>()?;
        Ok(Request {
            endpoints,
            name: self.name,
            no_entrypoint: self.entrypoint.as_deref() == Some(""),
            no_healthcheck: self.no_healthcheck,
            config,
            host_config,
            volumes: self.volume,
            volumes_from,
        })
    }

    fn healthcheck(&self) -> Option<Healthcheck> {
        let given = self.health_cmd.is_some()
            || self.health_interval.is_some()
            || self.health_retries.is_some()
            || self.health_start_period.is_some()
            || self.health_start_interval.is_some()
            || self.health_timeout.is_some();
        given.then(|| Healthcheck {
            test: self.health_cmd.iter().flat_map(|command| ["CMD-SHELL".to_owned(), command.clone()]).collect(),
            interval: self.health_interval,
            timeout: self.health_timeout,
            start_period: self.health_start_period,
            start_interval: self.health_start_interval,
            retries: self.health_retries,
        })
    }

    fn exposed(&self) -> Result<BTreeMap<String, serde_json::Value>, RuntimeError> {
        let mut exposed = BTreeMap::new();
        for text in &self.expose {
            let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
            for port in port_range(ports)? {
                exposed.insert(format!("{port}/{protocol}"), serde_json::json!({}));
            }
        }
        for text in &self.publish {
            for (port, _) in published(text)? {
                exposed.insert(port, serde_json::json!({}));
            }
        }
        Ok(exposed)
    }

    /// The network mode and what is asked for in each bridge network: address, names and Ethernet address in the first.
    fn networks(&self) -> Result<(NetworkMode, BTreeMap<String, EndpointRequest>), RuntimeError> {
        let wanted = self.network.iter().map(|text| network(text)).collect::<Result<Vec<_>, _>>()?;
        let mut wanted = wanted.into_iter();
        let (first, mut own) = wanted.next().unwrap_or_default();
        let mut endpoints = BTreeMap::new();
        for (other, endpoint) in wanted {
            let (Some(one), Some(name)) = (first.bridge(), other.bridge()) else {
                return Err(usage(format!("conflicting options: network {other} goes with no other")));
            };
            if one == name || endpoints.insert(name.to_owned(), endpoint.clone()).is_some() {
                return Err(usage(format!("network {name:?} is specified multiple times")));
            }
            for_user_made(&other, &endpoint)?;
        }
        self.join(&mut own)?;
        for_user_made(&first, &own)?;
        match first.bridge() {
            Some(name) if own != EndpointRequest::default() => drop(endpoints.insert(name.to_owned(), own)),
            _ => {}
        }
        Ok((first, endpoints))
    }

    /// The flags of one network are the first one's. What is said there, they may not say again.
    fn join(&self, own: &mut EndpointRequest) -> Result<(), RuntimeError> {
        let twice = |flag: &str, what: &str| {
            Err(usage(format!("conflicting options: cannot specify both {flag} and per-network {what}")))
        };
        if !self.network_alias.is_empty() {
            if !own.aliases.is_empty() {
                return twice("--network-alias", "alias");
            }
            own.aliases.clone_from(&self.network_alias);
        }
        if self.ip.is_some() && own.ip.is_some() {
            return twice("--ip", "IPv4 address");
        }
        if self.mac_address.is_some() && own.mac.is_some() {
            return twice("--mac-address", "MAC address");
        }
        own.ip = own.ip.or(self.ip);
        own.mac = own.mac.or(self.mac_address);
        Ok(())
    }

    fn host_config(&self, network_mode: NetworkMode) -> Result<HostConfig, RuntimeError> {
        let mut port_bindings: BTreeMap<String, Vec<PortBinding>> = BTreeMap::new();
        for text in &self.publish {
            for (port, binding) in published(text)? {
                port_bindings.entry(port).or_default().push(binding);
            }
        }
        let mut tmpfs = BTreeMap::new();
        for text in &self.tmpfs {
            let (path, options) = text.split_once(':').unwrap_or((text, ""));
            tmpfs.insert(path.to_owned(), options.to_owned());
        }
        for text in self.sysctl.iter().chain(&self.log_opt) {
            if !text.contains('=') {
                return Err(usage(format!("{text:?} is not KEY=VALUE")));
            }
        }
        let extra_hosts = self.add_host.iter().map(|text| extra_host(text)).collect::<Result<_, _>>()?;
        let devices = self.device.iter().map(|text| device(text)).collect::<Result<_, _>>()?;
        let ulimits: Vec<Ulimit> = self.ulimit.iter().map(|text| ulimit(text)).collect::<Result<_, _>>()?;
        let limits = self.limits.resolve()?;
        let mounts: Vec<MountRequest> =
            self.mount.iter().map(|text| Ok(mount(text)?.0)).collect::<Result<_, RuntimeError>>()?;
        Ok(HostConfig {
            binds: some(self.volume.iter().filter(|text| text.contains(':')).cloned().collect()),
            container_id_file: self.cidfile.as_ref().map(|p| p.display().to_string()).unwrap_or_default(),
            log_config: LogConfig {
                kind: self.log_driver.clone().unwrap_or_else(|| "json-file".to_owned()),
                config: key_values(&self.log_opt),
            },
            network_mode,
            port_bindings,
            restart_policy: self.restart.as_deref().map_or(Ok(RestartPolicy::default()), restart_policy)?,
            auto_remove: self.rm,
            cap_add: some(self.cap_add.clone()),
            cap_drop: some(self.cap_drop.clone()),
            cgroupns_mode: self.cgroupns.clone().unwrap_or_else(|| "private".to_owned()),
            annotations: (!self.annotation.is_empty()).then(|| key_values(&self.annotation)),
            device_cgroup_rules: some(self.device_cgroup_rule.clone()),
            init: self.init.then_some(true),
            userns_mode: self.userns.clone().unwrap_or_default(),
            volume_driver: self.volume_driver.clone().unwrap_or_default(),
            volumes_from: some(self.volumes_from.clone()),
            links: some(self.link.clone()),
            dns: self.dns.clone(),
            dns_options: self.dns_option.clone(),
            dns_search: self.dns_search.clone(),
            extra_hosts: some(extra_hosts),
            group_add: some(self.group_add.clone()),
            ipc_mode: self.ipc.clone().unwrap_or_else(|| "private".to_owned()),
            oom_score_adj: self.oom_score_adj.unwrap_or(0),
            pid_mode: self.pid.clone().unwrap_or_default(),
            privileged: self.privileged,
            publish_all_ports: self.publish_all,
            readonly_rootfs: self.read_only,
            security_opt: some(self.security_opt.clone()),
            tmpfs: (!tmpfs.is_empty()).then_some(tmpfs),
            uts_mode: self.uts.clone().unwrap_or_default(),
            shm_size: self.shm_size.unwrap_or(0),
            sysctls: (!self.sysctl.is_empty()).then(|| key_values(&self.sysctl)),
            runtime: self.runtime.clone().unwrap_or_else(|| "ferry".to_owned()),
            cgroup_parent: self.cgroup_parent.clone().unwrap_or_default(),
            devices,
            // As docker: swap as large again, unless said otherwise.
            memory_swap: match limits.memory_swap {
                0 => limits.memory.max(0).saturating_mul(2),
                given => given,
            },
            // -1 is not set.
            memory_swappiness: self.memory_swappiness.filter(|percent| *percent != -1),
            oom_kill_disable: self.oom_kill_disable.then_some(true),
            // Less than nothing is no limit, as if none were given.
            pids_limit: limits.pids_limit.filter(|limit| *limit > 0),
            ulimits: (!ulimits.is_empty()).then_some(ulimits),
            mounts: (!mounts.is_empty()).then_some(mounts),
            ..limits
        })
    }
}

/// Addresses and names are given in networks that users made.
fn for_user_made(mode: &NetworkMode, endpoint: &EndpointRequest) -> Result<(), RuntimeError> {
    let what = match mode {
        NetworkMode::Bridge(_) => return Ok(()),
        _ if endpoint.ip.is_some() => "an address can be chosen",
        _ if !endpoint.aliases.is_empty() => "names can be given",
        NetworkMode::Default => return Ok(()),
        _ if endpoint.mac.is_some() => return Err(usage("conflicting options: mac-address and the network mode")),
        _ => return Ok(()),
    };
    Err(usage(format!("{what} in networks made with `ferry network create` only")))
}

fn key_values(texts: &[String]) -> BTreeMap<String, String> {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        (key.to_owned(), value.to_owned())
    };
    texts.iter().map(pair).collect()
}

fn some(list: Vec<String>) -> Option<Vec<String>> {
    (!list.is_empty()).then_some(list)
}
