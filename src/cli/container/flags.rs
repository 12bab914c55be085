//! The flags of `create` and `run`: parsed here as typed, resolved to a request by [`ContainerFlags::resolve`].

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Component, PathBuf};

use clap::Args;

use crate::base::BoxFault;
use crate::image::config::Healthcheck;
use crate::runtime::container::config::{DeviceMapping, LogConfig, MountRequest, PortBinding, RestartPolicy, Ulimit};
use crate::runtime::container::{Config, HostConfig};
use crate::runtime::create::Request;
use crate::runtime::monitor::log::parse_size;
use crate::runtime::net::{EndpointRequest, Mac};
use crate::runtime::{NetworkMode, RuntimeError};

/// Flags that make a container.
#[derive(Debug, Args)]
pub struct ContainerFlags {
    /// Add a host name and its address to /etc/hosts
    #[arg(long, value_name = "HOST:IP")]
    add_host: Vec<String>,
    /// Attach to standard input, output or error
    #[arg(short, long, value_name = "STREAM")]
    pub attach: Vec<String>,
    /// Weight of block device access, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// Add Linux capabilities
    #[arg(long, value_name = "CAPABILITY", value_delimiter = ',')]
    cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long, value_name = "CAPABILITY", value_delimiter = ',')]
    cap_drop: Vec<String>,
    /// Annotate the runtime's document
    #[arg(long, value_name = "KEY=VALUE")]
    annotation: Vec<String>,
    /// The control group to put the container's below
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
    /// Control group namespace: private or host
    #[arg(long, value_name = "MODE", value_parser = ["private", "host"])]
    cgroupns: Option<String>,
    /// Write the container's ID to a file
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,
    /// Length of the CPU scheduler's period in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<u64>,
    /// CPU time in each period, in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_quota: Option<i64>,
    /// Relative weight of CPU time
    #[arg(short, long, value_name = "WEIGHT")]
    cpu_shares: Option<u64>,
    /// Number of CPUs
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<String>,
    /// CPUs on which to run, as 0-3,5
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes from which to allocate
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Add a device of the host
    #[arg(long, value_name = "HOST[:CONTAINER[:PERMISSIONS]]")]
    device: Vec<String>,
    /// Allow more devices, by type and numbers
    #[arg(long, value_name = "RULE")]
    device_cgroup_rule: Vec<String>,
    /// Accepted as docker has it: ferry checks every image by its digests
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, hide = true)]
    disable_content_trust: Option<bool>,
    /// DNS servers
    #[arg(long, value_name = "IP")]
    dns: Vec<String>,
    /// DNS options
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION")]
    dns_option: Vec<String>,
    /// DNS search domains
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// The NIS domain name
    #[arg(long, value_name = "NAME")]
    domainname: Option<String>,
    /// Replace the image's entrypoint; empty for none
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    /// Set an environment variable; without a value, take it from here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Note that the container listens on a port
    #[arg(long, value_name = "PORT[-PORT][/PROTOCOL]")]
    expose: Vec<String>,
    /// Add groups to the user
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// The command that checks health
    #[arg(long, value_name = "COMMAND")]
    health_cmd: Option<String>,
    /// Time between two checks
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    health_interval: Option<i64>,
    /// Failures in a row that make it unhealthy
    #[arg(long, value_name = "NUMBER")]
    health_retries: Option<i64>,
    /// Time between two checks while it starts
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    health_start_interval: Option<i64>,
    /// Time at the start in which failures do not count
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    health_start_period: Option<i64>,
    /// How long one check may take
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    health_timeout: Option<i64>,
    /// The container's host name
    #[arg(short = 'h', long, value_name = "NAME")]
    hostname: Option<String>,
    /// Put a small init first, which passes signals on and collects what processes leave
    #[arg(long)]
    init: bool,
    /// Keep standard input open
    #[arg(short, long)]
    interactive: bool,
    /// The container's address in its network
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<Ipv4Addr>,
    /// IPC namespace: private, shareable, host, none, container:NAME
    #[arg(long, value_name = "MODE")]
    ipc: Option<String>,
    /// Set labels
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Read labels from a file
    #[arg(long, value_name = "FILE")]
    label_file: Vec<PathBuf>,
    /// Make another container known by its name, or another one
    #[arg(long, value_name = "CONTAINER[:NAME]")]
    link: Vec<String>,
    /// Where output goes: json-file or none
    #[arg(long, value_name = "DRIVER")]
    log_driver: Option<String>,
    /// Options of the log: max-size, max-file
    #[arg(long, value_name = "KEY=VALUE")]
    log_opt: Vec<String>,
    /// The container's Ethernet address
    #[arg(long, value_name = "ADDRESS")]
    mac_address: Option<Mac>,
    /// Memory limit
    #[arg(short, long, value_name = "BYTES", value_parser = bytes)]
    memory: Option<i64>,
    /// Memory that is kept when it gets tight
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    memory_reservation: Option<i64>,
    /// Limit of memory and swap together; -1 for no limit of swap
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_hyphen_values = true)]
    memory_swap: Option<i64>,
    /// How gladly memory is swapped out, 0 to 100
    #[arg(long, value_name = "PERCENT")]
    memory_swappiness: Option<u64>,
    /// Mount something: type=bind|volume|tmpfs,source=…,target=…[,readonly]
    #[arg(long, value_name = "MOUNT")]
    mount: Vec<String>,
    /// The container's name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Network: bridge, none, host, container:NAME or the name of a network
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    network: Vec<String>,
    /// More names it is known by in its network
    #[arg(long, visible_alias = "net-alias", value_name = "NAME")]
    network_alias: Vec<String>,
    /// Ignore the image's health check
    #[arg(long)]
    no_healthcheck: bool,
    /// Keep the kernel from killing processes for want of memory
    #[arg(long)]
    oom_kill_disable: bool,
    /// How gladly the kernel kills the container for want of memory, -1000 to 1000
    #[arg(long, value_name = "SCORE", allow_hyphen_values = true)]
    oom_score_adj: Option<i32>,
    /// PID namespace: host or container:NAME
    #[arg(long, value_name = "MODE")]
    pid: Option<String>,
    /// Limit of processes and threads; -1 for none
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// The platform that the image must be of
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    pub platform: Option<String>,
    /// Give the container all rights
    #[arg(long)]
    privileged: bool,
    /// Publish a port
    #[arg(short, long, value_name = "[[IP:]HOST:]CONTAINER[/PROTOCOL]")]
    publish: Vec<String>,
    /// Publish all ports that the image exposes
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Whether to fetch the image first: missing and never are the same here, where nothing is fetched by itself
    #[arg(long, value_name = "WHEN", value_parser = ["missing", "never"], default_value = "missing", hide_default_value = true)]
    pull: String,
    /// Say nothing of fetching: nothing is fetched by itself
    #[arg(short, long, hide = true)]
    quiet: bool,
    /// Mount the root file system read-only
    #[arg(long)]
    read_only: bool,
    /// When to start it again: no, always, unless-stopped, on-failure[:NUMBER]
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// Remove the container when it ends
    #[arg(long)]
    pub rm: bool,
    /// What executes it: ferry, or another OCI runtime by name or path
    #[arg(long, value_name = "RUNTIME")]
    runtime: Option<String>,
    /// no-new-privileges, seccomp=FILE|unconfined, systempaths=unconfined
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    shm_size: Option<i64>,
    /// The signal that stops it
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// Seconds it has to stop before it is killed
    #[arg(long, value_name = "SECONDS")]
    stop_timeout: Option<u64>,
    /// Set kernel settings of the container's namespaces
    #[arg(long, value_name = "KEY=VALUE")]
    sysctl: Vec<String>,
    /// Mount a tmpfs
    #[arg(long, value_name = "PATH[:OPTIONS]")]
    tmpfs: Vec<String>,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Resource limits
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<String>,
    /// User and group, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// User namespace: host, which is the only one here; IDs are remapped for all of a user's containers alike
    #[arg(long, value_name = "MODE", value_parser = user_namespace)]
    userns: Option<String>,
    /// UTS namespace: host
    #[arg(long, value_name = "MODE")]
    uts: Option<String>,
    /// Mount a directory of the host or a volume
    #[arg(short, long, value_name = "[SOURCE:]TARGET[:OPTIONS]")]
    volume: Vec<String>,
    /// The driver of volumes: local is the one there is
    #[arg(long, value_name = "DRIVER", value_parser = ["local"])]
    volume_driver: Option<String>,
    /// Mount what other containers have mounted
    #[arg(long, value_name = "CONTAINER[:ro]")]
    volumes_from: Vec<String>,
    /// The working directory
    #[arg(short, long, value_name = "PATH")]
    workdir: Option<String>,
    /// The image, and what to run instead of its command: all that follows the image is the command's
    #[arg(value_names = ["IMAGE", "COMMAND"], required = true, num_args = 1.., trailing_var_arg = true)]
    words: Vec<String>,
}

impl ContainerFlags {
    /// The image's name.
    pub fn image(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// What to run instead of the image's command.
    fn command(&self) -> Vec<String> {
        self.words.iter().skip(1).cloned().collect()
    }
}

fn usage(text: impl Into<String>) -> RuntimeError {
    RuntimeError::usage(text)
}

/// Sizes as docker takes them.
pub fn bytes(text: &str) -> Result<i64, String> {
    if text == "-1" {
        return Ok(-1);
    }
    let whole = parse_size(text).and_then(|n| i64::try_from(n).ok());
    whole.ok_or_else(|| format!("invalid size {text:?}: give a number and b, k, m or g"))
}

/// `--userns`: docker's modes. Podman's are refused with what takes their place.
fn user_namespace(text: &str) -> Result<String, String> {
    match text {
        "" | "host" => Ok(text.to_owned()),
        "keep-id" | "auto" | "nomap" => Err(format!(
            "{text:?} is podman's: a user's containers share one user namespace, in which 0 is the user (run with --user 0, the \
             default, to write as yourself)"
        )),
        _ => Err(format!("invalid USER mode {text:?}: host is the only one")),
    }
}

/// Go's durations, in nanoseconds: `1m30s`, `500ms`.
pub fn duration(text: &str) -> Result<i64, String> {
    let bad = || format!("invalid duration {text:?}: give it as 1m30s");
    let mut total = 0f64;
    let mut rest = text;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let factor = match unit {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(bad()),
        };
        total += number.parse::<f64>().map_err(|_| bad())? * factor;
        rest = tail;
    }
    Ok(total as i64)
}

/// Lines of `NAME=VALUE`; comments and empty lines do not count. A bare name is taken from the environment.
pub fn env_lines(text: &str) -> Result<Vec<String>, RuntimeError> {
    let mut pairs = Vec::new();
    for line in text.lines() {
        let line = line.trim_start().trim_end_matches('\r');
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        pairs.extend(env_pair(line)?);
    }
    Ok(pairs)
}

/// `NAME=VALUE`, or a bare name whose value is this process's; nothing when it is not set here.
pub fn env_pair(text: &str) -> Result<Option<String>, RuntimeError> {
    match text.split_once('=') {
        Some(("", _)) => Err(usage(format!("invalid environment variable: {text}"))),
        Some(_) => Ok(Some(text.to_owned())),
        None if text.is_empty() || text.contains(char::is_whitespace) => {
            Err(usage(format!("variable '{text}' contains whitespaces")))
        }
        None => Ok(std::env::var(text).ok().map(|value| format!("{text}={value}"))),
    }
}

/// A file of lines, which is no larger than such files are.
pub fn read(path: &PathBuf) -> Result<String, RuntimeError> {
    use crate::base::AtPath;
    let mut file = std::fs::File::open(path).at("open", path)?;
    let bytes = crate::base::caps::read_all(&mut file, 1 << 20, "the file").at("read", path)?;
    String::from_utf8(bytes).map_err(|_| usage(format!("{} is not UTF-8", path.display())))
}

/// `--restart`.
pub fn restart_policy(text: &str) -> Result<RestartPolicy, RuntimeError> {
    let (name, count) = text.split_once(':').map_or((text, None), |(name, count)| (name, Some(count)));
    let bad = || usage(format!("invalid restart policy {text:?}"));
    let maximum_retry_count = count.map_or(Ok(0), str::parse).map_err(|_| bad())?;
    match name {
        "no" | "always" | "unless-stopped" if count.is_none() => {}
        "on-failure" => {}
        _ => return Err(bad()),
    }
    Ok(RestartPolicy { name: name.to_owned(), maximum_retry_count })
}

/// `--cpus` in billionths.
pub fn nano_cpus(text: &str) -> Result<i64, RuntimeError> {
    let number = text.parse::<f64>().ok().filter(|n| *n > 0.0 && *n < 1e6);
    number.map(|n| (n * 1e9).round() as i64).ok_or_else(|| usage(format!("invalid number of CPUs {text:?}")))
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
            let text = read(file)?;
            let lines: Vec<String> =
                text.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')).map(str::to_owned).collect();
            labels.extend(key_values(&lines));
        }
        labels.extend(key_values(&self.label));
        let wants = |stream: &str| self.attach.iter().any(|named| named.eq_ignore_ascii_case(stream));
        let by_default = self.attach.is_empty() && !detached;
        let healthcheck = self.healthcheck();
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
        let host_config = self.host_config(mode)?;
        Ok(Request {
            endpoints,
            name: self.name,
            no_entrypoint: self.entrypoint.as_deref() == Some(""),
            no_healthcheck: self.no_healthcheck,
            config,
            host_config,
            volumes: self.volume,
            volumes_from: self.volumes_from,
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
        let mode = |text: &String| text.parse::<NetworkMode>().map_err(|error| usage(error.to_string()));
        let first = self.network.first().map_or(Ok(NetworkMode::default()), mode)?;
        let mut endpoints = BTreeMap::new();
        for text in self.network.iter().skip(1) {
            let other = mode(text)?;
            let (Some(_), Some(name)) = (first.bridge(), other.bridge()) else {
                return Err(usage(format!("conflicting options: network {text} goes with no other")));
            };
            endpoints.insert(name.to_owned(), EndpointRequest::default());
        }
        let wanted = EndpointRequest { ip: self.ip, mac: self.mac_address, aliases: self.network_alias.clone() };
        if wanted == EndpointRequest::default() {
            return Ok((first, endpoints));
        }
        match &first {
            NetworkMode::Bridge(name) => drop(endpoints.insert(name.clone(), wanted)),
            NetworkMode::Default if wanted.ip.is_none() && wanted.aliases.is_empty() => {
                endpoints.insert("bridge".to_owned(), wanted);
            }
            _ if wanted.ip.is_some() => {
                return Err(usage("an address can be chosen in networks made with `ferry network create` only"));
            }
            _ => return Err(usage("names can be given in networks made with `ferry network create` only")),
        }
        Ok((first, endpoints))
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
        for text in &self.add_host {
            if !text.contains(':') {
                return Err(usage(format!("bad format for add-host: {text:?}")));
            }
        }
        let devices = self.device.iter().map(|text| device(text)).collect::<Result<_, _>>()?;
        let ulimits: Vec<Ulimit> = self.ulimit.iter().map(|text| ulimit(text)).collect::<Result<_, _>>()?;
        let mounts: Vec<MountRequest> = self.mount.iter().map(|text| mount(text)).collect::<Result<_, _>>()?;
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
            extra_hosts: some(self.add_host.clone()),
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
            cpu_shares: self.cpu_shares.unwrap_or(0),
            memory: self.memory.unwrap_or(0),
            nano_cpus: self.cpus.as_deref().map_or(Ok(0), nano_cpus)?,
            cgroup_parent: self.cgroup_parent.clone().unwrap_or_default(),
            blkio_weight: self.blkio_weight.unwrap_or(0),
            cpu_period: self.cpu_period.unwrap_or(0),
            cpu_quota: self.cpu_quota.unwrap_or(0),
            cpuset_cpus: self.cpuset_cpus.clone().unwrap_or_default(),
            cpuset_mems: self.cpuset_mems.clone().unwrap_or_default(),
            devices,
            memory_reservation: self.memory_reservation.unwrap_or(0),
            // As docker: swap as large again, unless said otherwise.
            memory_swap: match self.memory_swap.unwrap_or(0) {
                0 => self.memory.unwrap_or(0).max(0).saturating_mul(2),
                given => given,
            },
            memory_swappiness: self.memory_swappiness,
            oom_kill_disable: self.oom_kill_disable.then_some(true),
            pids_limit: self.pids_limit,
            ulimits: (!ulimits.is_empty()).then_some(ulimits),
            mounts: (!mounts.is_empty()).then_some(mounts),
            ..HostConfig::default()
        })
    }
}

fn port_range(text: &str) -> Result<std::ops::RangeInclusive<u16>, RuntimeError> {
    let bad = || usage(format!("invalid port {text:?}"));
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let (from, to) = (from.parse::<u16>().map_err(|_| bad())?, to.parse::<u16>().map_err(|_| bad())?);
    if from == 0 || to < from { Err(bad()) } else { Ok(from..=to) }
}

/// `[[IP:]HOST:]CONTAINER[/PROTOCOL]`, each part of the ports a range perhaps.
fn published(text: &str) -> Result<Vec<(String, PortBinding)>, RuntimeError> {
    let bad = |why: &str| usage(format!("invalid published port {text:?}: {why}"));
    let (address, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if !matches!(protocol, "tcp" | "udp") {
        return Err(bad("the protocol is tcp or udp"));
    }
    let (rest, inside) = address.rsplit_once(':').map_or((None, address), |(rest, inside)| (Some(rest), inside));
    let (host_ip, host) = match rest {
        None => ("", ""),
        Some(rest) => rest.rsplit_once(':').unwrap_or(("", rest)),
    };
    let host_ip = host_ip.trim_start_matches('[').trim_end_matches(']');
    if !host_ip.is_empty() && host_ip.parse::<std::net::IpAddr>().is_err() {
        return Err(bad("the host's address is not an IP address"));
    }
    let inside = port_range(inside)?;
    let binding = |port: String| PortBinding { host_ip: host_ip.to_owned(), host_port: port };
    if host.is_empty() {
        return Ok(inside.map(|port| (format!("{port}/{protocol}"), binding(String::new()))).collect());
    }
    let outside = port_range(host)?;
    if outside.clone().count() != inside.clone().count() {
        if inside.clone().count() == 1 {
            // One port of the container on any of a range.
            return Ok(vec![(format!("{}/{protocol}", inside.start()), binding(host.to_owned()))]);
        }
        return Err(bad("the two ranges differ in length"));
    }
    Ok(inside.zip(outside).map(|(i, o)| (format!("{i}/{protocol}"), binding(o.to_string()))).collect())
}

fn device(text: &str) -> Result<DeviceMapping, RuntimeError> {
    let parts: Vec<&str> = text.split(':').collect();
    let is_mode = |mode: &str| !mode.is_empty() && mode.chars().all(|c| "rwm".contains(c));
    let (host, inside, mode) = match parts[..] {
        [host] => (host, host, "rwm"),
        [host, mode] if is_mode(mode) => (host, host, mode),
        [host, inside] => (host, inside, "rwm"),
        [host, inside, mode] if is_mode(mode) => (host, inside, mode),
        _ => return Err(usage(format!("invalid device specification {text:?}"))),
    };
    if !host.starts_with('/') || !inside.starts_with('/') {
        return Err(usage(format!("invalid device specification {text:?}: paths must be absolute")));
    }
    Ok(DeviceMapping {
        path_on_host: host.to_owned(),
        path_in_container: inside.to_owned(),
        cgroup_permissions: mode.to_owned(),
    })
}

fn ulimit(text: &str) -> Result<Ulimit, RuntimeError> {
    let bad = || usage(format!("invalid ulimit {text:?}: give NAME=SOFT[:HARD]"));
    let (name, limits) = text.split_once('=').ok_or_else(bad)?;
    let number = |text: &str| match text {
        "unlimited" | "-1" => Ok(-1),
        text => text.parse::<i64>().ok().filter(|n| *n >= 0).ok_or_else(bad),
    };
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if hard >= 0 && (soft < 0 || soft > hard) {
        return Err(usage(format!("ulimit soft limit must be less than or equal to hard limit: {text}")));
    }
    Ok(Ulimit { name: name.to_owned(), hard, soft })
}

/// A path of the host's that begins with a dot is one from the working directory.
fn from_here(path: &str) -> Result<String, RuntimeError> {
    let source = path.split(':').next().unwrap_or_default();
    if !source.starts_with('.') {
        return Ok(path.to_owned());
    }
    use crate::base::AtPath;
    let here = std::env::current_dir().at("find", ".")?;
    // Without its dots, as Go's filepath.Abs.
    let mut whole = PathBuf::from("/");
    for part in here.join(source).components() {
        match part {
            Component::Normal(part) => whole.push(part),
            Component::ParentDir => drop(whole.pop()),
            _ => {}
        }
    }
    let whole = whole.to_str().ok_or_else(|| usage(format!("{}: the path is not UTF-8", whole.display())))?;
    Ok(format!("{whole}{}", &path[source.len()..]))
}

fn mount(text: &str) -> Result<MountRequest, RuntimeError> {
    let bad = |why: String| usage(format!("invalid argument {text:?} for --mount: {why}"));
    let mut mount = MountRequest { kind: "volume".to_owned(), ..MountRequest::default() };
    for field in text.split(',') {
        let (key, value) = field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value)));
        let on = || match value {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(bad(format!("invalid value for {key}: {other}"))),
        };
        let needed = || value.map(str::to_owned).ok_or_else(|| bad(format!("{key} needs a value")));
        match key.to_ascii_lowercase().as_str() {
            "type" => mount.kind = needed()?.to_ascii_lowercase(),
            "source" | "src" => mount.source = needed()?,
            "target" | "dst" | "destination" => mount.target = needed()?,
            "readonly" | "ro" => mount.read_only = on()?,
            "bind-propagation" => mount.propagation = needed()?,
            "volume-nocopy" => mount.no_copy = on()?,
            "tmpfs-size" => {
                let size = parse_size(&needed()?).ok_or_else(|| bad("tmpfs-size is not a size".into()))?;
                mount.tmpfs_size = size;
            }
            "tmpfs-mode" => {
                mount.tmpfs_mode =
                    u32::from_str_radix(&needed()?, 8).map_err(|_| bad("tmpfs-mode is not octal".into()))?;
            }
            "consistency" => {}
            _ => return Err(bad(format!("unexpected key '{key}'"))),
        }
    }
    if mount.target.is_empty() {
        return Err(bad("target is required".into()));
    }
    if mount.kind == "bind" && mount.source.is_empty() {
        return Err(bad("a bind mount needs a source".into()));
    }
    if mount.kind == "bind" && !mount.source.contains(':') {
        mount.source = from_here(&mount.source)?;
    }
    Ok(mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_published_as_docker_reads_them() {
        let binding = |ip: &str, port: &str| PortBinding { host_ip: ip.into(), host_port: port.into() };
        let one = |text: &str| published(text).ok().map(|mut all| (all.len(), all.remove(0)));
        let cases = [
            ("80", Some((1, ("80/tcp".to_owned(), binding("", ""))))),
            ("8080:80", Some((1, ("80/tcp".to_owned(), binding("", "8080"))))),
            ("127.0.0.1:8080:80/udp", Some((1, ("80/udp".to_owned(), binding("127.0.0.1", "8080"))))),
            ("127.0.0.1::80", Some((1, ("80/tcp".to_owned(), binding("127.0.0.1", ""))))),
            ("[::1]:8080:80", Some((1, ("80/tcp".to_owned(), binding("::1", "8080"))))),
            ("8000-8002:80-82", Some((3, ("80/tcp".to_owned(), binding("", "8000"))))),
            ("8000-8002:80", Some((1, ("80/tcp".to_owned(), binding("", "8000-8002"))))),
            ("8000-8002:80-81", None),
            ("x:80", None),
            ("80/sctp", None),
            ("0", None),
        ];
        for (text, expected) in cases {
            assert_eq!(one(text), expected, "{text}");
        }
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, expected) in [
            ("1s", Some(1_000_000_000)),
            ("1m30s", Some(90_000_000_000)),
            ("1.5ms", Some(1_500_000)),
            ("5", None),
            ("", None),
        ] {
            assert_eq!(duration(text).ok(), expected, "{text}");
        }
    }
}
