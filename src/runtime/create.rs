//! Making a container: the image's settings and the user's become one, volumes are made, the writable layer is
//! registered.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use super::container::config::MountRequest;
use super::container::{Config, Container, ContainerDir, Containers, HostConfig, MountPoint, State};
use super::error::RuntimeError;
use super::net::EndpointRequest;
use super::{NetworkMode, capability, events, limits, remove, signals, skeleton, spec, volumes};
use crate::base::Ctx;
use crate::image::config::RunConfig;
use crate::store::{Store, StoredImage};

/// What the user asks for. In `config`, what is empty or `None` is the image's.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The name; made up if there is none.
    pub name: Option<String>,
    /// The program's side.
    pub config: Config,
    /// `--entrypoint ""`: the image's is not wanted either.
    pub no_entrypoint: bool,
    /// `--no-healthcheck`.
    pub no_healthcheck: bool,
    /// The host's side.
    pub host_config: HostConfig,
    /// `-v` as typed: `[SOURCE:]DESTINATION[:OPTIONS]`.
    pub volumes: Vec<String>,
    /// `--volumes-from` as typed: `CONTAINER[:OPTIONS]`.
    pub volumes_from: Vec<String>,
    /// What is asked for in each bridge network.
    pub endpoints: BTreeMap<String, EndpointRequest>,
}

/// A container ID: 64 random hex digits.
pub fn random_id() -> Result<String, RuntimeError> {
    let mut random = [0; 32];
    let failed = |error: getrandom::Error| RuntimeError::System {
        action: "get random numbers".into(),
        source: std::io::Error::other(error),
    };
    getrandom::fill(&mut random).map_err(failed)?;
    Ok(hex::encode(random))
}

/// Makes a container of `image`. After an error nothing is left of it.
pub fn create(store: &Store, image: &StoredImage, request: Request, ctx: &Ctx) -> Result<Container, RuntimeError> {
    let id = random_id()?;
    let mut container = describe(&id, image, &request)?;
    check(&container, &request.volumes)?;
    let containers = Containers::new(store.root());
    name_by_id(&containers, &mut container.host_config)?;
    let (dir, name, _lock) = containers.reserve(&id, request.name.as_deref())?;
    container.name = name;
    let made = finish(store, &dir, &mut container, &request, ctx);
    if let Err(error) = made {
        let _ = remove::take_away(store.root(), &dir, &container, true);
        return Err(error);
    }
    events::record(store.root(), &container, "create", &[]);
    Ok(container)
}

/// Containers whose namespaces are to be shared are noted by their IDs: they can be renamed.
fn name_by_id(containers: &Containers, host: &mut HostConfig) -> Result<(), RuntimeError> {
    let id = |name: &str| Ok::<_, RuntimeError>(containers.find(name)?.id().to_owned());
    if let NetworkMode::Container(name) = &host.network_mode {
        host.network_mode = NetworkMode::Container(id(name)?);
    }
    for mode in [&mut host.pid_mode, &mut host.ipc_mode] {
        if let Some(name) = mode.strip_prefix("container:") {
            *mode = format!("container:{}", id(name)?);
        }
    }
    Ok(())
}

fn finish(
    store: &Store,
    dir: &ContainerDir,
    container: &mut Container,
    request: &Request,
    ctx: &Ctx,
) -> Result<(), RuntimeError> {
    container.mounts = mounts(store.root(), container, request)?;
    let other = |error: crate::store::StoreError| RuntimeError::Other(error.into());
    let layer = store.create_rw_layer(dir.id(), &container.image, ctx).map_err(other)?;
    skeleton::fill(&layer, store.options().userxattr)?;
    if container.host_config.auto_remove {
        dir.write_passing_state(&State::default())?;
    }
    dir.write_container(container)
}

/// The image's settings under the user's.
fn describe(id: &str, image: &StoredImage, request: &Request) -> Result<Container, RuntimeError> {
    let defaults = RunConfig::default();
    let from = image.config.fields().config.as_ref().unwrap_or(&defaults);
    let words = |words: &Option<crate::image::config::Words>| words.as_ref().map(|words| words.to_vec());
    let mut config = request.config.clone();
    let own_entrypoint = config.entrypoint.is_some() || request.no_entrypoint;
    if !own_entrypoint {
        config.entrypoint = words(&from.entrypoint).filter(|words| !words.is_empty());
        // A command without the entrypoint it was written for would mean something else.
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            config.cmd = words(&from.cmd).filter(|words| !words.is_empty());
        }
    }
    config.env = spec::env_over(&from.env, &config.env);
    let mut labels = from.labels.clone();
    labels.append(&mut config.labels);
    config.labels = labels;
    if config.user.is_empty() {
        config.user.clone_from(&from.user);
    }
    if config.working_dir.is_empty() {
        config.working_dir.clone_from(&from.working_dir);
    }
    if config.stop_signal.is_none() {
        config.stop_signal.clone_from(&from.stop_signal);
    }
    if config.stop_timeout.is_none() {
        config.stop_timeout = from.stop_timeout;
    }
    for (port, value) in &from.exposed_ports {
        config.exposed_ports.entry(port.clone()).or_insert_with(|| value.clone());
    }
    let mut declared: BTreeMap<String, serde_json::Value> = from.volumes.clone();
    declared.extend(config.volumes.take().unwrap_or_default());
    let unnamed = request.volumes.iter().filter(|text| !text.contains(':'));
    declared.extend(unnamed.map(|place| (place.clone(), serde_json::json!({}))));
    config.volumes = (!declared.is_empty()).then_some(declared);
    config.on_build.clone_from(&from.on_build);
    if request.no_healthcheck {
        config.healthcheck =
            Some(crate::image::config::Healthcheck { test: vec!["NONE".into()], ..Default::default() });
    } else if let Some(image_check) = &from.healthcheck {
        let mut check = config.healthcheck.take().unwrap_or_default();
        if check.test.is_empty() {
            check.test.clone_from(&image_check.test);
        }
        check.interval = check.interval.or(image_check.interval);
        check.timeout = check.timeout.or(image_check.timeout);
        check.start_period = check.start_period.or(image_check.start_period);
        check.start_interval = check.start_interval.or(image_check.start_interval);
        check.retries = check.retries.or(image_check.retries);
        config.healthcheck = Some(check);
    }
    let mut host = request.host_config.clone();
    if config.hostname.is_empty() {
        config.hostname = id.get(..12).unwrap_or(id).to_owned();
    }
    if host.network_mode == NetworkMode::Host && request.config.hostname.is_empty() {
        config.hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    }
    if host.shm_size == 0 {
        host.shm_size = 64 << 20;
    }
    if host.masked_paths.is_none() {
        let security = spec::security(host.security_opt.as_deref().unwrap_or_default())?;
        let (masked, protected) = spec::default_paths(host.privileged || security.paths_off);
        host.masked_paths = Some(masked);
        host.readonly_paths = Some(protected);
    }
    let mut all: Vec<String> = config.entrypoint.iter().chain(&config.cmd).flatten().cloned().collect();
    if all.is_empty() {
        return Err(RuntimeError::usage(format!(
            "no command specified: image {} has none, give one",
            image.id().0.short()
        )));
    }
    let path = all.remove(0);
    let created = super::now();
    let image = image.id();
    Ok(Container {
        id: id.to_owned(),
        name: String::new(),
        created,
        image,
        path,
        args: all,
        config,
        host_config: host,
        mounts: Vec::new(),
        endpoints: request.endpoints.clone(),
        unplugged: false,
    })
}

/// What can be known to be wrong before the container exists. `volumes` are those of `-v`.
fn check(container: &Container, volumes: &[String]) -> Result<(), RuntimeError> {
    let (config, host) = (&container.config, &container.host_config);
    let clean = |what: &str, text: &str| {
        if text.chars().any(char::is_control) {
            return Err(RuntimeError::usage(format!("{what} {text:?} holds control characters")));
        }
        Ok(())
    };
    clean("host name", &config.hostname)?;
    clean("domain name", &config.domainname)?;
    if config.hostname.len() > 63 {
        return Err(RuntimeError::usage(format!("host name {:?} is longer than 63 characters", config.hostname)));
    }
    for extra in host.extra_hosts.iter().flatten() {
        clean("--add-host", extra)?;
    }
    for text in host.dns.iter().chain(&host.dns_search).chain(&host.dns_options) {
        clean("DNS setting", text)?;
    }
    if let Some(signal) = &config.stop_signal {
        signals::parse(signal)?;
    }
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return Err(RuntimeError::usage(format!(
            "the working directory {:?} is invalid, it needs to be an absolute path",
            config.working_dir
        )));
    }
    let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    capability::resolve(&list(&host.cap_add), &list(&host.cap_drop), host.privileged)?;
    spec::security(&list(&host.security_opt))?;
    spec::resources(host)?;
    super::network::request(container)?;
    let policy = &host.restart_policy;
    policy.check()?;
    host.log_config.check()?;
    if host.auto_remove && !matches!(policy.name.as_str(), "" | "no") {
        return Err(RuntimeError::usage("conflicting options: --restart and --rm"));
    }
    for (kind, value) in [("--pid", &host.pid_mode), ("--ipc", &host.ipc_mode), ("--uts", &host.uts_mode)] {
        let shared = value.starts_with("container:") && kind != "--uts";
        let known = matches!(value.as_str(), "" | "host")
            || kind == "--ipc" && matches!(value.as_str(), "private" | "shareable" | "none");
        if !shared && !known {
            return Err(RuntimeError::usage(format!("{kind} {value:?} is not a mode ferry has")));
        }
    }
    limits::check(host)?;
    if host.memory_swap > 0 && host.memory == 0 {
        return Err(RuntimeError::usage(
            "You should always set the memory limit when using memoryswap limit, see usage",
        ));
    }
    check_places(container, volumes)
}

/// One thing a place, but for a tmpfs over another one. A volume of which nothing but the place is given yields to any other
/// mount.
fn check_places(container: &Container, volumes: &[String]) -> Result<(), RuntimeError> {
    let host = &container.host_config;
    let named = volumes.iter().filter_map(|text| Some((text.split(':').nth(1)?, false)));
    let asked = host.mounts.iter().flatten().map(|mount| (mount.target.as_str(), mount.kind == "tmpfs"));
    let tmpfs = host.tmpfs.iter().flatten().map(|(place, _)| (place.as_str(), true));
    let mut taken = BTreeMap::new();
    for (place, is_tmpfs) in named.chain(asked).chain(tmpfs) {
        let place = clean_path(place)?;
        if taken.insert(place.clone(), is_tmpfs).is_some_and(|other| !(other && is_tmpfs)) {
            return Err(RuntimeError::usage(format!("Duplicate mount point: {place}")));
        }
    }
    for (place, _) in container.config.volumes.iter().flatten() {
        anonymous_place(place)?;
    }
    Ok(())
}

/// Where a volume of which nothing but the place is given is mounted, by an image or by `-v`: as docker's it may be
/// relative, to the root.
fn anonymous_place(path: &str) -> Result<String, RuntimeError> {
    clean_path(&format!("/{path}"))
}

/// Cleans a path of the container as Go's `filepath.Clean` does; it must be absolute.
pub fn clean_path(path: &str) -> Result<String, RuntimeError> {
    let bad = || RuntimeError::usage(format!("invalid mount path {path:?}: it must be absolute"));
    let mut parts: Vec<&str> = Vec::new();
    if !path.starts_with('/') || path.contains('\0') {
        return Err(bad());
    }
    for part in Path::new(path).components() {
        match part {
            Component::Normal(part) => parts.push(part.to_str().ok_or_else(bad)?),
            Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    if parts.is_empty() {
        return Err(RuntimeError::usage("invalid mount path: the container's root cannot be mounted over"));
    }
    Ok(format!("/{}", parts.join("/")))
}

fn mounts(store_root: &Path, container: &Container, request: &Request) -> Result<Vec<MountPoint>, RuntimeError> {
    let mut all: Vec<MountPoint> = Vec::new();
    for text in request.volumes.iter().filter(|text| text.contains(':')) {
        all.push(parse_volume(store_root, text)?);
    }
    for wanted in container.host_config.mounts.iter().flatten() {
        all.extend(resolve_request(store_root, wanted)?);
    }
    for text in &request.volumes_from {
        let (other, mode) = text.split_once(':').unwrap_or((text, ""));
        for mut mount in Containers::new(store_root).find(other)?.container()?.mounts {
            mount.rw &= mode != "ro";
            mount.anonymous = false;
            if !taken(&all, &mount.destination) {
                all.push(mount);
            }
        }
    }
    let is_tmpfs = |path: &str| {
        let host = &container.host_config;
        let by_flag = host.tmpfs.iter().flatten().any(|(at, _)| clean_path(at).is_ok_and(|at| at == path));
        by_flag
            || host.mounts.iter().flatten().any(|m| m.kind == "tmpfs" && clean_path(&m.target).is_ok_and(|t| t == path))
    };
    for declared in container.config.volumes.iter().flatten().map(|(path, _)| path) {
        let destination = anonymous_place(declared)?;
        if is_tmpfs(&destination) {
            continue;
        }
        // A mount of the user's takes the place.
        if !taken(&all, &destination) {
            all.push(anonymous_volume(store_root, &destination)?);
        }
    }
    for mount in &all {
        not_in_proc(&mount.destination, Some(Path::new(&mount.source)))?;
    }
    let host = &container.host_config;
    let tmpfs = host.mounts.iter().flatten().filter(|mount| mount.kind == "tmpfs").map(|mount| &mount.target);
    for path in host.tmpfs.iter().flatten().map(|(path, _)| path).chain(tmpfs) {
        not_in_proc(&clean_path(path)?, None)?;
    }
    Ok(all)
}

/// What the masks and the runtime itself rely on is the kernel's, but for the files that runc lets be replaced
/// (`libcontainer/rootfs_linux.go`, `checkProcMount`). By name, for whichever runtime; crun does not look. The built-in and
/// runc look at what is there, too.
fn not_in_proc(destination: &str, source: Option<&Path>) -> Result<(), RuntimeError> {
    let is_proc =
        |path: &Path| rustix::fs::statfs(path).is_ok_and(|found| found.f_type == rustix::fs::PROC_SUPER_MAGIC);
    let refused = match destination.strip_prefix("/proc") {
        Some("" | "/") => !source.is_some_and(is_proc),
        Some(inside) if inside.starts_with('/') => !super::init::mounts::is_replaceable(Path::new(destination)),
        _ => false,
    };
    if refused {
        return Err(RuntimeError::usage(format!("{destination:?} cannot be mounted over: it is inside /proc")));
    }
    Ok(())
}

fn taken(all: &[MountPoint], destination: &str) -> bool {
    all.iter().any(|mount| mount.destination == destination)
}

fn named_volume(store_root: &Path, name: &str, destination: &str) -> Result<MountPoint, RuntimeError> {
    volume(store_root, name, destination, false)
}

fn anonymous_volume(store_root: &Path, destination: &str) -> Result<MountPoint, RuntimeError> {
    volume(store_root, &random_id()?, destination, true)
}

fn volume(store_root: &Path, name: &str, destination: &str, anonymous: bool) -> Result<MountPoint, RuntimeError> {
    let source = volumes::ensure(store_root, name, anonymous)?;
    Ok(MountPoint {
        anonymous,
        kind: "volume".into(),
        name: name.into(),
        source: source.to_string_lossy().into_owned(),
        destination: destination.into(),
        driver: "local".into(),
        mode: if anonymous { String::new() } else { "z".into() },
        rw: true,
        ..MountPoint::default()
    })
}

const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// `-v SOURCE:DESTINATION[:OPTIONS]`.
fn parse_volume(store_root: &Path, text: &str) -> Result<MountPoint, RuntimeError> {
    let bad = |why: &str| RuntimeError::usage(format!("invalid volume specification {text:?}: {why}"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, options) = match parts[..] {
        [source, destination] => (source, destination, ""),
        [source, destination, options] => (source, destination, options),
        _ => return Err(bad("too many colons")),
    };
    let destination = clean_path(destination)?;
    let mut mount = match source {
        "" => return Err(bad("the source is empty")),
        // What is not there is made at each start.
        source if source.starts_with('/') => bind(source, &destination),
        name => named_volume(store_root, name, &destination)?,
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => mount.rw = false,
            // SELinux labels and consistency hints mean nothing here.
            "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" | "nocopy" => {}
            spread if PROPAGATIONS.contains(&spread) && mount.kind == "bind" => {
                spread.clone_into(&mut mount.propagation)
            }
            other => return Err(bad(&format!("unknown option {other:?}"))),
        }
    }
    if !options.is_empty() || mount.kind == "bind" {
        options.clone_into(&mut mount.mode);
    }
    Ok(mount)
}

fn bind(source: &str, destination: &str) -> MountPoint {
    MountPoint {
        kind: "bind".into(),
        source: source.into(),
        destination: destination.into(),
        rw: true,
        propagation: "rprivate".into(),
        ..MountPoint::default()
    }
}

/// `--mount`; a tmpfs is no mount point of docker's.
fn resolve_request(store_root: &Path, wanted: &MountRequest) -> Result<Option<MountPoint>, RuntimeError> {
    let destination = clean_path(&wanted.target)?;
    let mut mount = match wanted.kind.as_str() {
        "tmpfs" => return Ok(None),
        "bind" => {
            if !Path::new(&wanted.source).exists() {
                return Err(RuntimeError::NotFound(format!("bind source path does not exist: {}", wanted.source)));
            }
            let mut mount = bind(&wanted.source, &destination);
            if !wanted.propagation.is_empty() {
                if !PROPAGATIONS.contains(&wanted.propagation.as_str()) {
                    return Err(RuntimeError::usage(format!("invalid bind propagation {:?}", wanted.propagation)));
                }
                mount.propagation.clone_from(&wanted.propagation);
            }
            mount
        }
        "volume" if wanted.source.is_empty() => anonymous_volume(store_root, &destination)?,
        "volume" => named_volume(store_root, &wanted.source, &destination)?,
        other => return Err(RuntimeError::usage(format!("mount type {other:?} is not supported"))),
    };
    mount.rw = !wanted.read_only;
    Ok(Some(mount))
}
