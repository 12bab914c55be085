//! A container as an OCI runtime document: what docker would hand to runc.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::NetworkMode;
use super::capability;
use super::container::config::DeviceMapping;
use super::container::{Container, HostConfig};
use super::create::clean_path;
use super::error::RuntimeError;
use super::seccomp;
use super::user::User;
use crate::base::AtPath;

/// What a document is made of beside the container itself.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// The mounted root file system.
    pub root: &'a Path,
    /// Who the program runs as.
    pub user: &'a User,
    /// Files of ferry's own to be shown in the container: where on the host, where inside.
    pub files: Vec<(PathBuf, &'static str)>,
    /// Namespaces of other containers to be entered: the OCI type and the path.
    pub joined: Vec<(&'static str, PathBuf)>,
    /// The memory that another container shares, where it is mounted.
    pub shm: Option<PathBuf>,
    /// A seccomp profile that replaces docker's, in docker's format.
    pub seccomp: Option<Vec<u8>>,
    /// Whether ferry runs in a user namespace of its own (rootless).
    pub rootless: bool,
    /// The small init that `--init` puts first, on the host.
    pub init: Option<PathBuf>,
}

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where `--init` appears in the container, as with docker.
pub const INIT_PATH: &str = "/sbin/docker-init";

/// What docker hides (moby `oci/defaults.go`).
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// What docker protects.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The paths hidden and protected unless the user says otherwise, for `HostConfig`.
pub fn default_paths(privileged: bool) -> (Vec<String>, Vec<String>) {
    if privileged {
        return (Vec::new(), Vec::new());
    }
    (MASKED.map(str::to_owned).to_vec(), READ_ONLY.map(str::to_owned).to_vec())
}

/// `--security-opt`, understood.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Security {
    /// `no-new-privileges`.
    pub no_new_privileges: bool,
    /// `seccomp=unconfined`.
    pub seccomp_off: bool,
    /// `seccomp=FILE`.
    pub seccomp_file: Option<PathBuf>,
    /// `systempaths=unconfined`.
    pub paths_off: bool,
}

/// Parses `--security-opt`.
pub fn security(options: &[String]) -> Result<Security, RuntimeError> {
    let mut security = Security::default();
    for option in options {
        let (key, value) = option.split_once('=').or_else(|| option.split_once(':')).unwrap_or((option, ""));
        match (key, value) {
            ("no-new-privileges", "" | "true") => security.no_new_privileges = true,
            ("no-new-privileges", "false") => security.no_new_privileges = false,
            ("seccomp", "unconfined") => security.seccomp_off = true,
            ("seccomp", "builtin") => {}
            ("seccomp", file) if !file.is_empty() => security.seccomp_file = Some(PathBuf::from(file)),
            ("systempaths", "unconfined") => security.paths_off = true,
            // Ferry confines by neither; taking them off is as docker leaves it on a host without them.
            ("apparmor", "unconfined") | ("label", "disable") => {}
            _ => return Err(RuntimeError::usage(format!("--security-opt {option:?} is not supported"))),
        }
    }
    Ok(security)
}

/// The environment of a container's processes.
pub fn environment(container: &Container, user: &User, tty: bool) -> Vec<String> {
    let hostname = &container.config.hostname;
    let mut env = vec![PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if tty {
        env.push("TERM=xterm".to_owned());
    }
    merge_env(&mut env, &container.config.env);
    if !env.iter().any(|pair| pair.starts_with("HOME=") && pair.len() > 5) {
        env.retain(|pair| !pair.starts_with("HOME="));
        env.push(format!("HOME={}", user.home.as_deref().unwrap_or("/")));
    }
    env
}

/// An image's variables under the user's, in docker's order: the user's own come first, and a bare name takes the image's away.
pub fn env_over(image: &[String], own: &[String]) -> Vec<String> {
    fn name(pair: &str) -> &str {
        pair.split_once('=').map_or(pair, |(name, _)| name)
    }
    let mut env = Vec::new();
    merge_env(&mut env, own);
    env.extend(image.iter().filter(|pair| !own.iter().any(|other| name(other) == name(pair))).cloned());
    env
}

/// Adds variables: one that is there already is replaced in its place, a bare name removes it.
pub fn merge_env(env: &mut Vec<String>, more: &[String]) {
    for pair in more {
        let (name, has_value) = pair.split_once('=').map_or((pair.as_str(), false), |(name, _)| (name, true));
        let at = env.iter().position(|old| old.split_once('=').is_some_and(|(old, _)| old == name));
        match (at, has_value) {
            (Some(at), true) => pair.clone_into(&mut env[at]),
            (Some(at), false) => drop(env.remove(at)),
            (None, true) => env.push(pair.clone()),
            (None, false) => {}
        }
    }
}

/// Capabilities and `noNewPrivileges` of a process: `privileged` is the container's or the exec's. What is not set is left
/// out, as docker does: youki takes `false` for set (libcontainer 0.7, `process/init/process.rs`).
pub fn privileges(container: &Container, user: &User, privileged: bool) -> Result<(Value, Option<bool>), RuntimeError> {
    let host = &container.host_config;
    let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let caps = capability::resolve(&list(&host.cap_add), &list(&host.cap_drop), privileged)?.names();
    // What another user than root has at once is what its program's file gives it, as with docker.
    let at_once: &[&str] = if user.uid == 0 { &caps } else { &[] };
    let sets = json!({"bounding": caps, "effective": at_once, "permitted": at_once, "inheritable": []});
    let security = security(&list(&host.security_opt))?;
    Ok((sets, security.no_new_privileges.then_some(true)))
}

/// Makes the document.
pub fn generate(container: &Container, around: &Surroundings<'_>) -> Result<Spec, RuntimeError> {
    let (config, host) = (&container.config, &container.host_config);
    let (caps, no_new_privileges) = privileges(container, around.user, host.privileged)?;
    let mut args = container.command();
    if around.init.is_some() {
        args.splice(0..0, [INIT_PATH.to_owned(), "--".to_owned()]);
    }
    let cwd = if config.working_dir.is_empty() { "/" } else { &config.working_dir };
    let mut process = json!({
        "terminal": config.tty,
        "user": {"uid": around.user.uid, "gid": around.user.gid, "additionalGids": around.user.groups},
        "args": args,
        "env": environment(container, around.user, config.tty),
        "cwd": cwd,
        "capabilities": caps,
        "noNewPrivileges": no_new_privileges,
        "rlimits": rlimits(host)?,
    });
    if host.oom_score_adj != 0 {
        process["oomScoreAdj"] = json!(host.oom_score_adj);
    }
    let mut document = json!({
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": around.root, "readonly": host.readonly_rootfs},
        "mounts": mounts(container, around)?,
        "linux": linux(container, around)?,
        "annotations": host.annotations.clone().unwrap_or_default(),
    });
    if host.uts_mode != "host" && !joins(around, "uts") {
        document["hostname"] = json!(config.hostname);
    }
    serde_json::from_value(document).map_err(|error| RuntimeError::Malformed(format!("runtime document: {error}")))
}

fn joins(around: &Surroundings<'_>, kind: &str) -> bool {
    around.joined.iter().any(|(joined, _)| *joined == kind)
}

fn rlimits(host: &HostConfig) -> Result<Vec<Value>, RuntimeError> {
    let one = |limit: &super::container::config::Ulimit| {
        let value = |n: i64| u64::try_from(n).unwrap_or(u64::MAX);
        const KNOWN: [&str; 16] = [
            "as",
            "core",
            "cpu",
            "data",
            "fsize",
            "locks",
            "memlock",
            "msgqueue",
            "nice",
            "nofile",
            "nproc",
            "rss",
            "rtprio",
            "rttime",
            "sigpending",
            "stack",
        ];
        if !KNOWN.contains(&limit.name.as_str()) {
            return Err(RuntimeError::usage(format!("unknown ulimit {:?}", limit.name)));
        }
        let kind = format!("RLIMIT_{}", limit.name.to_ascii_uppercase());
        Ok(json!({"type": kind, "soft": value(limit.soft), "hard": value(limit.hard)}))
    };
    host.ulimits.iter().flatten().map(one).collect()
}

/// Mounts by their places, in the order they are made.
type Mounts = Vec<(String, Value)>;

/// Adds a mount; one that is there already at its place gives way.
fn put(all: &mut Mounts, destination: &str, kind: &str, source: &str, options: &str) {
    all.retain(|(old, _)| old != destination);
    let options: Vec<&str> = options.split(',').filter(|option| !option.is_empty()).collect();
    let mount = json!({"destination": destination, "type": kind, "source": source, "options": options});
    all.push((destination.to_owned(), mount));
}

fn mounts(container: &Container, around: &Surroundings<'_>) -> Result<Vec<Value>, RuntimeError> {
    let host = &container.host_config;
    let host_net = host.network_mode == NetworkMode::Host;
    let mut all = Mounts::new();
    if around.rootless && host.pid_mode == "host" {
        // The kernel mounts proc only for who owns the PID namespace.
        put(&mut all, "/proc", "bind", "/proc", "rbind,nosuid,noexec,nodev");
    } else {
        put(&mut all, "/proc", "proc", "proc", "nosuid,noexec,nodev");
    }
    put(&mut all, "/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k");
    let tty_group = if around.rootless { "" } else { ",gid=5" };
    let pts = format!("nosuid,noexec,newinstance,ptmxmode=0666,mode=0620{tty_group}");
    put(&mut all, "/dev/pts", "devpts", "devpts", &pts);
    let access = if host.privileged { "rw" } else { "ro" };
    if around.rootless && (host_net || joins(around, "network")) {
        // The kernel mounts sysfs only for who owns the network namespace.
        put(&mut all, "/sys", "bind", "/sys", "rbind,nosuid,noexec,nodev,ro");
    } else {
        put(&mut all, "/sys", "sysfs", "sysfs", &format!("nosuid,noexec,nodev,{access}"));
    }
    if !around.rootless {
        put(&mut all, "/sys/fs/cgroup", "cgroup", "cgroup", &format!("{access},nosuid,noexec,nodev,relatime"));
    }
    if host.ipc_mode == "host" && Path::new("/dev/mqueue").exists() {
        put(&mut all, "/dev/mqueue", "bind", "/dev/mqueue", "rbind,nosuid,noexec,nodev");
    } else {
        put(&mut all, "/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev");
    }
    if let Some(init) = &around.init {
        put(&mut all, INIT_PATH, "bind", &init.to_string_lossy(), "bind,ro");
    }
    let own = own_mounts(container, around)?;
    // A mount of the user's replaces the default one of its place.
    all.retain(|(place, _)| own.iter().all(|(other, _)| other != place));
    Ok(all.into_iter().chain(own).map(|(_, mount)| mount).collect())
}

/// What comes over the defaults: the engine's files, shared memory, and what the user mounts. As docker's, shallow ones
/// first, so that none hides another: the files lie on a volume at `/etc`.
fn own_mounts(container: &Container, around: &Surroundings<'_>) -> Result<Mounts, RuntimeError> {
    let host = &container.host_config;
    let mut all = Mounts::new();
    let access = if host.readonly_rootfs { "ro" } else { "rw" };
    for (source, inside) in &around.files {
        put(&mut all, inside, "bind", &source.to_string_lossy(), &format!("rbind,rprivate,{access}"));
    }
    if host.ipc_mode == "host" {
        put(&mut all, "/dev/shm", "bind", "/dev/shm", "rbind,nosuid,noexec,nodev");
    } else if let Some(shm) = &around.shm {
        put(&mut all, "/dev/shm", "bind", &shm.to_string_lossy(), "rbind,nosuid,noexec,nodev");
    } else if host.ipc_mode != "none" {
        let size = if host.shm_size > 0 { host.shm_size } else { 64 << 20 };
        put(&mut all, "/dev/shm", "tmpfs", "shm", &format!("nosuid,noexec,nodev,mode=1777,size={size}"));
    }
    for mount in &container.mounts {
        // What is read-only on the host stays it: no `rw`, as with docker, and crun wants to be told.
        let access = if mount.rw && !on_read_only(&mount.source) { "" } else { "ro" };
        let spread = if mount.propagation.is_empty() { "rprivate" } else { &mount.propagation };
        put(&mut all, &mount.destination, "bind", &mount.source, &format!("rbind,{access},{spread}"));
    }
    for (destination, options) in host.tmpfs.iter().flatten() {
        put(&mut all, &clean_path(destination)?, "tmpfs", "tmpfs", &format!("noexec,nosuid,nodev,{options}"));
    }
    for request in host.mounts.iter().flatten().filter(|request| request.kind == "tmpfs") {
        let mut options = "noexec,nosuid,nodev".to_owned();
        if request.tmpfs_size > 0 {
            options.push_str(&format!(",size={}", request.tmpfs_size));
        }
        if request.tmpfs_mode > 0 {
            options.push_str(&format!(",mode={:o}", request.tmpfs_mode));
        }
        if request.read_only {
            options.push_str(",ro");
        }
        put(&mut all, &clean_path(&request.target)?, "tmpfs", "tmpfs", &options);
    }
    all.sort_by_key(|(place, _)| Path::new(place).components().count());
    Ok(all)
}

/// Whether what is at a path of the host lies on a mount or in a file system that is read-only.
fn on_read_only(path: &str) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|found| found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

fn linux(container: &Container, around: &Surroundings<'_>) -> Result<Value, RuntimeError> {
    let host = &container.host_config;
    let mut namespaces = vec![json!({"type": "mount"})];
    let mut namespace =
        |kind: &str, shared_with_host: bool| match around.joined.iter().find(|(joined, _)| *joined == kind) {
            Some((_, path)) => namespaces.push(json!({"type": kind, "path": path})),
            None if shared_with_host => {}
            None => namespaces.push(json!({"type": kind})),
        };
    namespace("uts", host.uts_mode == "host");
    namespace("ipc", host.ipc_mode == "host");
    namespace("pid", host.pid_mode == "host");
    namespace("network", host.network_mode == NetworkMode::Host);
    namespace("cgroup", host.cgroupns_mode == "host" || around.rootless);
    let own_net = host.network_mode != NetworkMode::Host && !joins(around, "network");
    let mut sysctl: BTreeMap<String, String> = BTreeMap::new();
    if own_net {
        sysctl.insert("net.ipv4.ip_unprivileged_port_start".into(), "0".into());
        if !around.rootless {
            sysctl.insert("net.ipv4.ping_group_range".into(), "0 2147483647".into());
        }
    }
    if !container.config.domainname.is_empty() && host.uts_mode != "host" && !joins(around, "uts") {
        // As docker: older runtimes do not know the document's own field for it.
        sysctl.insert("kernel.domainname".into(), container.config.domainname.clone());
    }
    for (key, value) in host.sysctls.iter().flatten() {
        check_sysctl(key, host, own_net)?;
        sysctl.insert(key.clone(), value.clone());
    }
    let mut linux = json!({
        "namespaces": namespaces,
        "sysctl": sysctl,
        "resources": resources(host)?,
        "devices": devices(host)?,
        "maskedPaths": host.masked_paths,
        "readonlyPaths": host.readonly_paths,
        "cgroupsPath": cgroup_path(container),
    });
    let security = security(host.security_opt.as_deref().unwrap_or_default())?;
    if !host.privileged && !security.seccomp_off {
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        let caps = capability::resolve(&list(&host.cap_add), &list(&host.cap_drop), false)?;
        let profile = match &around.seccomp {
            Some(json) => seccomp::profile(json, caps)?,
            None => seccomp::default_profile(caps)?,
        };
        linux["seccomp"] = serde_json::to_value(profile).map_err(|e| RuntimeError::Malformed(e.to_string()))?;
    }
    Ok(linux)
}

/// Below which group those of containers are, unless `--cgroup-parent` says another.
pub const CGROUPS: &str = "/ferry";

/// The container's control group.
pub fn cgroup_path(container: &Container) -> PathBuf {
    let parent = container.host_config.cgroup_parent.as_str();
    Path::new("/").join(if parent.is_empty() { CGROUPS } else { parent }).join(&container.id)
}

/// Only settings that belong to a namespace of the container's own.
fn check_sysctl(key: &str, host: &HostConfig, own_net: bool) -> Result<(), RuntimeError> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let well_formed = key.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) && !key.contains("..");
    let allowed = (IPC.contains(&key) || key.starts_with("fs.mqueue.")) && host.ipc_mode != "host"
        || key.starts_with("net.") && own_net;
    if well_formed && allowed {
        return Ok(());
    }
    Err(RuntimeError::usage(format!("sysctl {key:?} is not in a namespace of the container's own")))
}

/// The limits, in the document's terms.
pub fn resources(host: &HostConfig) -> Result<Value, RuntimeError> {
    let mut resources = json!({});
    let mut memory = json!({});
    if host.memory > 0 {
        memory["limit"] = json!(host.memory);
        // What has no limit of its own, as `update` makes it, has docker's: swap as large again.
        memory["swap"] = json!(if host.memory_swap == 0 { host.memory.saturating_mul(2) } else { host.memory_swap });
    }
    if host.memory_reservation > 0 {
        memory["reservation"] = json!(host.memory_reservation);
    }
    if let Some(swappiness) = host.memory_swappiness {
        memory["swappiness"] = json!(swappiness);
    }
    if host.oom_kill_disable == Some(true) {
        memory["disableOOMKiller"] = json!(true);
    }
    if memory != json!({}) {
        resources["memory"] = memory;
    }
    let mut cpu = json!({});
    if host.cpu_shares > 0 {
        cpu["shares"] = json!(host.cpu_shares);
    }
    if host.nano_cpus > 0 {
        cpu["period"] = json!(100_000);
        cpu["quota"] = json!(host.nano_cpus / 10_000);
    }
    if host.cpu_period > 0 {
        cpu["period"] = json!(host.cpu_period);
    }
    if host.cpu_quota != 0 {
        cpu["quota"] = json!(host.cpu_quota);
    }
    for (key, value) in [("cpus", &host.cpuset_cpus), ("mems", &host.cpuset_mems)] {
        if !value.is_empty() {
            cpu[key] = json!(value);
        }
    }
    if cpu != json!({}) {
        resources["cpu"] = cpu;
    }
    if let Some(limit) = host.pids_limit.filter(|limit| *limit != 0) {
        resources["pids"] = json!({"limit": limit});
    }
    if host.blkio_weight > 0 {
        resources["blockIO"] = json!({"weight": host.blkio_weight});
    }
    resources["devices"] = device_rules(host)?;
    Ok(resources)
}

/// Docker's device rules: nothing, then the harmless, terminals and what `--device` adds; nodes of any kind may be made.
fn device_rules(host: &HostConfig) -> Result<Value, RuntimeError> {
    let rule = |kind: &str, major: Option<i64>, minor: Option<i64>, access: &str| {
        let mut rule = json!({"allow": true, "type": kind, "access": access});
        if let Some(major) = major {
            rule["major"] = json!(major);
        }
        if let Some(minor) = minor {
            rule["minor"] = json!(minor);
        }
        rule
    };
    if host.privileged {
        return Ok(json!([{"allow": true, "access": "rwm"}]));
    }
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    rules.push(rule("c", None, None, "m"));
    rules.push(rule("b", None, None, "m"));
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(rule("c", Some(major), Some(minor), "rwm"));
    }
    rules.push(rule("c", Some(136), None, "rwm"));
    for device in &host.devices {
        for node in nodes_of(device)? {
            let (kind, major, minor, _) = host_device(&node)?;
            rules.push(rule(kind, Some(major), Some(minor), &node.cgroup_permissions));
        }
    }
    for text in host.device_cgroup_rules.iter().flatten() {
        let (kind, major, minor, access) = device_rule(text)?;
        rules.push(rule(kind, major, minor, access));
    }
    Ok(Value::Array(rules))
}

/// Kind, major and minor number (any, when `None`), and access.
type DeviceRule<'a> = (&'a str, Option<i64>, Option<i64>, &'a str);

/// `--device-cgroup-rule`: `c 42:* rwm`.
fn device_rule(text: &str) -> Result<DeviceRule<'_>, RuntimeError> {
    let bad = || RuntimeError::usage(format!("invalid device cgroup rule {text:?}: give it as \"c 42:* rwm\""));
    let words: Vec<&str> = text.split(' ').collect();
    let [kind @ ("a" | "b" | "c"), numbers, access] = words[..] else { return Err(bad()) };
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    let number = |text: &str| match text {
        "*" => Ok(None),
        text => text.parse::<u32>().map(|n| Some(i64::from(n))).map_err(|_| bad()),
    };
    if access.is_empty() || access.len() > 3 || !access.chars().all(|c| "rwm".contains(c)) {
        return Err(bad());
    }
    Ok((kind, number(major)?, number(minor)?, access))
}

/// The device nodes that one `--device` means: itself, or those in a directory and below.
fn nodes_of(device: &DeviceMapping) -> Result<Vec<DeviceMapping>, RuntimeError> {
    let mut found = Vec::new();
    let mut rest = vec![device.clone()];
    while let Some(next) = rest.pop() {
        let path = Path::new(&next.path_on_host);
        if !path.is_dir() {
            found.push(next);
            continue;
        }
        let entries = std::fs::read_dir(path).at("read", path)?;
        for entry in entries {
            let entry = entry.at("read", path)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type().at("read", entry.path())?;
            let is_node = {
                use std::os::unix::fs::FileTypeExt;
                kind.is_char_device() || kind.is_block_device()
            };
            if (is_node || kind.is_dir()) && found.len() + rest.len() < DEVICES {
                rest.push(DeviceMapping {
                    path_on_host: format!("{}/{name}", next.path_on_host.trim_end_matches('/')),
                    path_in_container: format!("{}/{name}", next.path_in_container.trim_end_matches('/')),
                    cgroup_permissions: next.cgroup_permissions.clone(),
                });
            }
        }
    }
    if found.is_empty() {
        return Err(RuntimeError::usage(format!("{:?}: not a device node", device.path_on_host)));
    }
    found.sort_by(|a, b| a.path_in_container.cmp(&b.path_in_container));
    Ok(found)
}

/// As many nodes as a directory of devices may hold.
const DEVICES: usize = 4096;
/// What a container has of its own in `/dev`, however privileged it is.
const OWN_DEVICES: [&str; 13] =
    ["console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "tty", "urandom", "zero"];

fn host_device(device: &DeviceMapping) -> Result<(&'static str, i64, i64, u32), RuntimeError> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let bad = |why: &str| RuntimeError::usage(format!("device {:?}: {why}", device.path_on_host));
    let meta = std::fs::metadata(&device.path_on_host).map_err(|error| bad(&error.to_string()))?;
    let kind = match meta.file_type() {
        kind if kind.is_char_device() => "c",
        kind if kind.is_block_device() => "b",
        _ => return Err(bad("not a device node")),
    };
    let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    Ok((kind, i64::from(major), i64::from(minor), meta.mode() & 0o777))
}

fn devices(host: &HostConfig) -> Result<Vec<Value>, RuntimeError> {
    let mut nodes = Vec::new();
    let mut wanted = Vec::new();
    if host.privileged {
        // As docker: all that the host has.
        let all = DeviceMapping {
            path_on_host: "/dev".into(),
            path_in_container: "/dev".into(),
            cgroup_permissions: "rwm".into(),
        };
        let own = |node: &DeviceMapping| {
            let name = node.path_in_container.strip_prefix("/dev/").and_then(|rest| rest.split('/').next());
            name.is_some_and(|name| OWN_DEVICES.contains(&name) || name.starts_with(".udev"))
        };
        wanted.extend(nodes_of(&all)?.into_iter().filter(|node| !own(node)));
    }
    for device in &host.devices {
        wanted.extend(nodes_of(device)?);
    }
    for device in &wanted {
        let (kind, major, minor, mode) = host_device(device)?;
        let inside = &device.path_in_container;
        nodes.push(json!({"path": inside, "type": kind, "major": major, "minor": minor, "fileMode": mode}));
    }
    Ok(nodes)
}
