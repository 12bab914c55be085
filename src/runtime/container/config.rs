//! A container's settings, in docker's own words (the Engine API's `Config` and `HostConfig`), so that `inspect` shows
//! them as they are kept. Numbers are docker's: bytes, nanoseconds, seconds, zero for "not given".

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::state::State;
use crate::image::ImageId;
use crate::image::config::Healthcheck;
use crate::runtime::net::EndpointRequest;
use crate::runtime::{NetworkMode, RuntimeError};

/// A container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Container {
    /// 64 hex digits.
    pub id: String,
    /// Without docker's leading slash.
    pub name: String,
    /// RFC 3339, UTC.
    pub created: String,
    /// The image it was made of.
    pub image: ImageId,
    /// The program and its arguments, from entrypoint and command.
    pub path: String,
    /// The arguments.
    pub args: Vec<String>,
    /// What the image and the command line say about the program.
    pub config: Config,
    /// What the command line says about its surroundings.
    pub host_config: HostConfig,
    /// What is mounted, resolved: volumes have been made.
    pub mounts: Vec<MountPoint>,
    /// What is asked for in each bridge network: that of the network mode and those beside it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub endpoints: BTreeMap<String, EndpointRequest>,
    /// It was disconnected from the network of its mode, the last one that it was in, and not connected to another since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unplugged: bool,
}

/// Docker's `Config`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs)] // docker's own names, documented there
pub struct Config {
    pub hostname: String,
    pub domainname: String,
    pub user: String,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    pub tty: bool,
    pub open_stdin: bool,
    pub stdin_once: bool,
    pub env: Vec<String>,
    pub cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// As the user named it.
    pub image: String,
    pub volumes: Option<BTreeMap<String, serde_json::Value>>,
    pub working_dir: String,
    pub entrypoint: Option<Vec<String>>,
    pub on_build: Option<Vec<String>>,
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
}

/// Docker's `HostConfig`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs)] // docker's own names, documented there
pub struct HostConfig {
    pub binds: Option<Vec<String>>,
    #[serde(rename = "ContainerIDFile")]
    pub container_id_file: String,
    pub log_config: LogConfig,
    pub network_mode: NetworkMode,
    pub port_bindings: BTreeMap<String, Vec<PortBinding>>,
    pub restart_policy: RestartPolicy,
    pub auto_remove: bool,
    pub volume_driver: String,
    pub volumes_from: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    pub links: Option<Vec<String>>,
    pub cap_add: Option<Vec<String>>,
    pub cap_drop: Option<Vec<String>>,
    pub cgroupns_mode: String,
    pub dns: Vec<String>,
    pub dns_options: Vec<String>,
    pub dns_search: Vec<String>,
    pub extra_hosts: Option<Vec<String>>,
    pub group_add: Option<Vec<String>>,
    pub ipc_mode: String,
    pub oom_score_adj: i32,
    pub pid_mode: String,
    pub privileged: bool,
    pub publish_all_ports: bool,
    pub readonly_rootfs: bool,
    pub security_opt: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpfs: Option<BTreeMap<String, String>>,
    #[serde(rename = "UTSMode")]
    pub uts_mode: String,
    pub userns_mode: String,
    pub shm_size: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sysctls: Option<BTreeMap<String, String>>,
    pub runtime: String,
    pub cpu_shares: u64,
    pub memory: i64,
    pub nano_cpus: i64,
    pub cgroup_parent: String,
    pub blkio_weight: u16,
    pub cpu_period: u64,
    pub cpu_quota: i64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    pub devices: Vec<DeviceMapping>,
    pub device_cgroup_rules: Option<Vec<String>>,
    pub memory_reservation: i64,
    pub memory_swap: i64,
    pub memory_swappiness: Option<i64>,
    pub oom_kill_disable: Option<bool>,
    pub pids_limit: Option<i64>,
    pub ulimits: Option<Vec<Ulimit>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mounts: Option<Vec<MountRequest>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
    pub masked_paths: Option<Vec<String>>,
    pub readonly_paths: Option<Vec<String>>,
}

/// Where a container's output goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LogConfig {
    /// `json-file` or `none`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// The driver's options, as docker's json-file has them.
    pub config: BTreeMap<String, String>,
}

impl LogConfig {
    /// Fails for a driver that ferry has not, for options that no json-file log has, and for those that ferry has not. What
    /// the others say is looked at when the container is started, as with docker.
    pub fn check(&self) -> Result<(), RuntimeError> {
        const OPTIONS: [&str; 8] =
            ["compress", "env", "env-regex", "labels", "labels-regex", "max-file", "max-size", "tag"];
        match self.kind.as_str() {
            "" | "json-file" => {}
            "none" if self.config.is_empty() => {}
            "none" => return Err(RuntimeError::usage("invalid logging opts for driver none")),
            kind => return Err(RuntimeError::usage(format!("log driver {kind:?}: ferry has json-file and none"))),
        }
        for (key, value) in &self.config {
            match (key.as_str(), value.as_str()) {
                ("mode", "" | "blocking") => {}
                ("mode", "non-blocking") | ("max-buffer-size", _) => {
                    return Err(RuntimeError::usage(format!(
                        "log option {key}={value}: ferry writes logs without a buffer, leave it out"
                    )));
                }
                ("mode", _) => return Err(RuntimeError::usage(format!("logging mode not supported: {value}"))),
                (key, _) if OPTIONS.contains(&key) => {}
                (key, _) => return Err(RuntimeError::usage(format!("unknown log option {key:?}"))),
            }
        }
        Ok(())
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { kind: "json-file".to_owned(), config: BTreeMap::new() }
    }
}

/// One published port.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortBinding {
    /// The host's address; empty for all.
    pub host_ip: String,
    /// The host's port; empty for any.
    pub host_port: String,
}

/// When a container is started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RestartPolicy {
    /// `no`, `always`, `unless-stopped`, `on-failure`.
    pub name: String,
    /// For `on-failure`; 0 is without end.
    pub maximum_retry_count: u32,
}

impl RestartPolicy {
    /// Fails for a policy that there is none of, or a count where none belongs.
    pub fn check(&self) -> Result<(), RuntimeError> {
        match self.name.as_str() {
            "on-failure" => Ok(()),
            "" | "no" | "always" | "unless-stopped" if self.maximum_retry_count == 0 => Ok(()),
            "" | "no" | "always" | "unless-stopped" => Err(RuntimeError::usage(
                "invalid restart policy: maximum retry count can only be used with 'on-failure'",
            )),
            name => Err(RuntimeError::usage(format!(
                "invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', 'on-failure', or \
                 'unless-stopped'"
            ))),
        }
    }
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self { name: "no".to_owned(), maximum_retry_count: 0 }
    }
}

/// A device of the host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs)]
pub struct DeviceMapping {
    pub path_on_host: String,
    pub path_in_container: String,
    pub cgroup_permissions: String,
}

/// A resource limit; -1 is none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs)]
pub struct Ulimit {
    pub name: String,
    pub hard: i64,
    pub soft: i64,
}

/// A mount as `--mount` asks for it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct MountRequest {
    /// `bind`, `volume` or `tmpfs`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// A path of the host, or a volume's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Where in the container.
    pub target: String,
    /// Whether the container may not write.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// Of a bind.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub propagation: String,
    /// Of a tmpfs, in bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub tmpfs_size: u64,
    /// Of a tmpfs; 0 is 1777.
    #[serde(skip_serializing_if = "is_zero32")]
    pub tmpfs_mode: u32,
    /// Whether an empty volume is not filled from the image.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_copy: bool,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn is_zero32(n: &u32) -> bool {
    *n == 0
}

/// Something mounted: docker's `MountPoint`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct MountPoint {
    /// `bind` or `volume`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// Of a volume.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The path on the host.
    pub source: String,
    /// The path in the container.
    pub destination: String,
    /// Always `local`, for a volume.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub driver: String,
    /// As the command line had it.
    pub mode: String,
    /// Whether the container may write.
    #[serde(rename = "RW")]
    pub rw: bool,
    /// Docker's word for how mounts spread.
    pub propagation: String,
    /// Whether the volume was made for this container and goes with it under `rm -v`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub anonymous: bool,
}

impl Container {
    /// The first 12 digits.
    pub fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    /// The program and its arguments.
    pub fn command(&self) -> Vec<String> {
        std::iter::once(self.path.clone()).chain(self.args.iter().cloned()).collect()
    }

    /// Whether a container that ended with `code` is to be started again, after `restarts` times of that.
    pub fn restarts_after(&self, code: i32, restarts: u32, stopped_by_user: bool) -> bool {
        let policy = &self.host_config.restart_policy;
        match policy.name.as_str() {
            _ if stopped_by_user => false,
            "always" | "unless-stopped" => true,
            "on-failure" => code != 0 && (policy.maximum_retry_count == 0 || restarts < policy.maximum_retry_count),
            _ => false,
        }
    }

    /// Whether the machine's start brings it back. As docker has it, `always` holds even for one that was stopped by hand.
    pub fn restarts_after_boot(&self, state: &State) -> bool {
        match self.host_config.restart_policy.name.as_str() {
            "always" => true,
            "unless-stopped" => !state.stopped_by_user,
            "on-failure" => state.was_running && self.restarts_after(255, state.restart_count, state.stopped_by_user),
            _ => false,
        }
    }
}
