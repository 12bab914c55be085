//! The flags of `create` and `run`: parsed here as typed, resolved to a request by [`ContainerFlags::resolve`].

pub mod check;
pub mod limits;
mod resolve;
pub mod values;

use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::Args;

use crate::runtime::RuntimeError;
use crate::runtime::net::Mac;
use limits::LimitFlags;
use values::{NewVolume, bytes, duration, mount, user_namespace};

/// Flags that make a container.
#[derive(Debug, Args)]
pub struct ContainerFlags {
    /// Add a host name and its address to /etc/hosts
    #[arg(long, value_name = "HOST:IP")]
    add_host: Vec<String>,
    /// Attach to standard input, output or error
    #[arg(short, long, value_name = "STREAM")]
    pub attach: Vec<String>,
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
    pub interactive: bool,
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
    /// Options of the log: max-size, max-file, compress, labels, labels-regex, env, env-regex, tag
    #[arg(long, value_name = "KEY=VALUE")]
    log_opt: Vec<String>,
    /// The container's Ethernet address
    #[arg(long, value_name = "ADDRESS")]
    mac_address: Option<Mac>,
    /// How gladly memory is swapped out, 0 to 100
    #[arg(long, value_name = "PERCENT", allow_hyphen_values = true)]
    memory_swappiness: Option<i64>,
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
    /// Seconds it has to stop before it is killed; -1 for ever
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    stop_timeout: Option<i64>,
    /// Set kernel settings of the container's namespaces
    #[arg(long, value_name = "KEY=VALUE")]
    sysctl: Vec<String>,
    /// Mount a tmpfs
    #[arg(long, value_name = "PATH[:OPTIONS]")]
    tmpfs: Vec<String>,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
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
    #[command(flatten)]
    limits: LimitFlags,
}

impl ContainerFlags {
    /// The image's name.
    pub fn image(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// The volumes that `--mount` has more of than a name, which are to be made before the container.
    pub fn new_volumes(&self) -> Result<Vec<NewVolume>, RuntimeError> {
        let mounts = self.mount.iter().map(|text| mount(text)).collect::<Result<Vec<_>, _>>()?;
        Ok(mounts.into_iter().filter_map(|(_, volume)| volume).collect())
    }

    /// What to run instead of the image's command.
    fn command(&self) -> Vec<String> {
        self.words.iter().skip(1).cloned().collect()
    }
}
