//! Starting a container's program: what the starter, a short-lived child of the monitor, does. It may use memory
//! freely; the monitor, which stays, may not.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use oci_spec::runtime::Spec;
use rustix::process::Pid;

use super::cgroup::{Cgroup, Hierarchy};
use super::container::{Config, Container, ContainerDir, Containers};
use super::error::{RuntimeError, While};
use super::init::{self, Stdio, rootfs};
use super::spec::{self, Surroundings};
use super::{NetworkMode, files, overlay, user, volumes};
use crate::base::AtPath;
use crate::sys::process as sys;

/// A link in the container's directory to the binary that is its init.
const INIT: &str = "init";

/// Notes where the binary that runs now is: it becomes the container's init, and a sealed copy has no path.
pub fn note_program(dir: &ContainerDir) -> Result<(), RuntimeError> {
    let (program, link) = (fs::read_link("/proc/self/exe").trying("find this program")?, dir.file(INIT));
    match fs::remove_file(&link) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        removed => removed.at("remove", &link)?,
    }
    Ok(std::os::unix::fs::symlink(program, &link).at("create", &link)?)
}

/// What a start is about.
#[derive(Debug)]
pub struct Start<'a> {
    /// The store's directory.
    pub store_root: &'a Path,
    /// The container's directory.
    pub dir: &'a ContainerDir,
    /// The container.
    pub container: &'a Container,
    /// What its program reads and writes.
    pub stdio: Stdio,
}

/// Called with the program's PID as soon as there is one; comes back when its network is there.
pub type Tell<'a> = dyn FnMut(Pid) -> Result<(), RuntimeError> + 'a;

/// Starts the program. Called in the starter; the program is a child of the starter's parent.
pub fn run(start: Start<'_>, tell: &mut Tell<'_>) -> Result<(), RuntimeError> {
    let Start { store_root, dir, container, stdio } = start;
    let donor = donor(store_root, container)?;
    // As docker: one name for one network.
    let renamed = donor.as_ref().map(|(_, donor)| Container {
        config: Config { hostname: donor.config.hostname.clone(), ..container.config.clone() },
        ..container.clone()
    });
    let container = renamed.as_ref().unwrap_or(container);
    let host = &container.host_config;
    // From here on the starter has a mount namespace of its own: no mount of a container is ever seen on the host, and
    // none outlives it.
    sys::unshare(libc::CLONE_NEWNS).trying("make a mount namespace")?;
    rootfs::leave_propagation()?;
    volumes::prepare(store_root, container)?;
    let root = overlay::mount(store_root, dir)?;
    let opened = crate::sys::mount::open_dir(&root).at("open", &root)?;
    let groups = host.group_add.clone().unwrap_or_default();
    let user = user::resolve(&opened, &container.config.user, &groups)?;
    if let Stdio::Plain(streams) = &stdio {
        init::process::give_pipes(streams, user.uid);
    }
    let joined = joined_namespaces(store_root, container)?;
    if !container.config.working_dir.is_empty() {
        make_working_dir(&opened, &container.config.working_dir)?;
    }
    volumes::fill(&opened, container)?;
    drop(opened);
    let security = spec::security(host.security_opt.as_deref().unwrap_or_default())?;
    let seccomp = match &security.seccomp_file {
        Some(path) => Some(read_capped(path, super::seccomp::PROFILE_BYTES)?),
        None => None,
    };
    let shm = match host.ipc_mode.strip_prefix("container:") {
        Some(other) => Some(shared_memory(&Containers::new(store_root).find(other)?, &dir.file("shm"))?),
        None => None,
    };
    let around = Surroundings {
        root: &root,
        user: &user,
        files: files::prepare(dir, container, donor.as_ref().map(|(dir, _)| dir))?,
        joined,
        shm,
        seccomp,
        rootless: super::cgroup::in_user_namespace(),
        init: match host.init {
            Some(true) => Some(fs::canonicalize(dir.file(INIT)).at("find ferry's own binary by", dir.file(INIT))?),
            _ => None,
        },
    };
    let document = spec::generate(container, &around)?;
    let bundle = dir.file("bundle");
    fs::create_dir_all(&bundle).at("create", &bundle)?;
    let path = bundle.join("config.json");
    let text = serde_json::to_vec(&document).map_err(|error| RuntimeError::Malformed(error.to_string()))?;
    // Made anew at every start, for the one who executes it: nothing depends on it afterwards.
    fs::write(&path, text).at("write", &path)?;
    match host.runtime.as_str() {
        "" | "ferry" | "builtin" => builtin(&document, &root, container, stdio, tell),
        other => external(other, &bundle, container, stdio, tell),
    }
}

/// Docker makes a working directory that the image lacks.
fn make_working_dir(root: &OwnedFd, path: &str) -> Result<(), RuntimeError> {
    use crate::sys::mount::{Target, mount_point};
    let made = mount_point(root, Path::new(path), Target::Directory);
    made.map(drop).trying(format!("make the working directory {path} in the container"))
}

/// Reads a file of the user's, which must not be larger than `limit` bytes.
pub fn read_capped(path: &Path, limit: u64) -> Result<Vec<u8>, RuntimeError> {
    let mut file = File::open(path).at("open", path)?;
    let what = format!("{}", path.display());
    Ok(crate::base::caps::read_all(&mut file, limit, &what).at("read", path)?)
}

/// The container's control group.
pub fn cgroup(container: &Container) -> Cgroup {
    Cgroup::at(Hierarchy::detect(), &spec::cgroup_path(container))
}

fn builtin(
    document: &Spec,
    root: &Path,
    container: &Container,
    stdio: Stdio,
    tell: &mut Tell<'_>,
) -> Result<(), RuntimeError> {
    let cgroup = cgroup(container);
    let grouped = cgroup.create()?;
    if let Some(resources) = document.linux().as_ref().and_then(|linux| linux.resources().as_ref()) {
        if grouped {
            cgroup.set(resources)?;
        } else if has_limits(container) {
            return Err(RuntimeError::Unsupported(
                "limits need a control group, and this user may not make one: delegate one to it, or run as root"
                    .into(),
            ));
        }
    }
    let prepared = init::prepare(document, root, grouped.then_some(&cgroup), stdio)?;
    tell(prepared.pid)?;
    prepared.release()
}

fn has_limits(container: &Container) -> bool {
    let host = &container.host_config;
    host.memory > 0
        || host.nano_cpus > 0
        || host.cpu_quota > 0
        || host.cpu_shares > 0
        || host.pids_limit.is_some_and(|limit| limit > 0)
        || !host.cpuset_cpus.is_empty()
}

/// The namespaces of other containers that this one enters.
fn joined_namespaces(root: &Path, container: &Container) -> Result<Vec<(&'static str, PathBuf)>, RuntimeError> {
    let host = &container.host_config;
    let containers = Containers::new(root);
    let mut joined = Vec::new();
    let mut join = |kind: &'static str, file: &str, other: &str| -> Result<(), RuntimeError> {
        let dir = containers.find(other)?;
        let state = dir.state()?;
        let name = dir.container()?.name;
        state.require(super::container::Status::has_process, "join the namespaces of", &name)?;
        joined.push((kind, PathBuf::from(format!("/proc/{}/ns/{file}", state.pid))));
        Ok(())
    };
    if let NetworkMode::Container(other) = &host.network_mode {
        join("network", "net", other)?;
    }
    if let Some(other) = host.pid_mode.strip_prefix("container:") {
        join("pid", "pid", other)?;
    }
    if let Some(other) = host.ipc_mode.strip_prefix("container:") {
        join("ipc", "ipc", other)?;
    }
    Ok(joined)
}

/// The container whose network this one shares.
fn donor(root: &Path, container: &Container) -> Result<Option<(ContainerDir, Container)>, RuntimeError> {
    let NetworkMode::Container(other) = &container.host_config.network_mode else { return Ok(None) };
    let dir = Containers::new(root).find(other)?;
    let donor = dir.container()?;
    Ok(Some((dir, donor)))
}

/// Mounts the memory that another container shares at a path of this process's own mount namespace.
fn shared_memory(other: &ContainerDir, path: &Path) -> Result<PathBuf, RuntimeError> {
    let (donor, state) = (other.container()?, other.state()?);
    if donor.host_config.ipc_mode != "shareable" {
        return Err(RuntimeError::usage(format!(
            "non-shareable IPC (hint: run container {} with --ipc shareable)",
            donor.name
        )));
    }
    let namespace = PathBuf::from(format!("/proc/{}/ns/mnt", state.pid));
    let namespace = File::open(&namespace).at("open", &namespace)?;
    let tree = init::mounts::memory_of(namespace).trying(format!("find the memory of container {}", donor.name))?;
    fs::create_dir_all(path).at("create", path)?;
    init::mounts::put(&tree, path).at("mount the shared memory at", path)?;
    Ok(path.to_owned())
}

/// Whether the monitor can have a PID namespace of its own, with which its containers die for certain. Not where the
/// program has to be in a PID namespace that is no descendant of it.
pub fn own_pid_namespace(container: &Container) -> bool {
    let host = &container.host_config;
    let builtin = matches!(host.runtime.as_str(), "" | "ferry" | "builtin");
    let joins = matches!(host.network_mode, NetworkMode::Container(_)) || host.ipc_mode.starts_with("container:");
    host.pid_mode.is_empty() && (builtin || !joins)
}

/// Has another OCI runtime execute the document. What it starts falls to the monitor as its nearest reaper.
fn external(
    runtime: &str,
    bundle: &Path,
    container: &Container,
    stdio: Stdio,
    tell: &mut Tell<'_>,
) -> Result<(), RuntimeError> {
    let own = own_pid_namespace(container);
    // The monitor does without; the container's program is not to.
    let _ = sys::allow_huge_pages(true);
    if own {
        // The runtime finds its own children in /proc, by the numbers of this PID namespace.
        let flags = rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV;
        rustix::mount::mount("proc", "/proc", "proc", flags, None).trying("mount /proc for the OCI runtime")?;
    }
    let pid_file = bundle.join("pid");
    let _ = fs::remove_file(&pid_file);
    let state = bundle.join("state");
    let _ = fs::remove_dir_all(&state);
    let mut create = Command::new(runtime);
    let log = bundle.join("log");
    let _ = fs::remove_file(&log);
    // Its standard error is the container's: what it has to say itself it writes to a file.
    create.arg("--root").arg(&state).arg("--log").arg(&log).args(["--log-format", "json"]);
    create.args(["create", "--bundle"]).arg(bundle).arg("--pid-file").arg(&pid_file);
    let mut passed = None;
    match stdio {
        Stdio::Plain([stdin, stdout, stderr]) => {
            create.stdin(stdin).stdout(stdout).stderr(stderr);
        }
        Stdio::Terminal(socket, size) => {
            let (console, path) = console_listener(bundle)?;
            create.arg("--console-socket").arg(path);
            let null = std::process::Stdio::null;
            create.stdin(null()).stdout(null()).stderr(null());
            passed = Some((console, socket, size));
        }
    }
    create.arg(&container.id);
    // The monitor blocks those that it waits for; runc gives the program none of that, youki all.
    sys::with_default_signals(&mut create);
    let mut child = create.spawn().trying(format!("run the OCI runtime {runtime:?}"))?;
    if let Some((console, socket, size)) = passed {
        let (stream, _) = accept_while_alive(&console, &mut child, runtime, &log)?;
        let master = super::terminal::receive(&stream).trying("receive the container's terminal")?;
        let none = || RuntimeError::Malformed(format!("{runtime} has sent no terminal"));
        let master = master.ok_or_else(none)?;
        super::terminal::resize_to(&master, size);
        super::terminal::send(&socket, master).trying("pass the container's terminal on")?;
    }
    let status = child.wait().trying(format!("wait for {runtime}"))?;
    if !status.success() {
        return Err(failed(runtime, "create", status, &log));
    }
    let text = fs::read_to_string(&pid_file).at("read", &pid_file)?;
    let bad = || RuntimeError::Malformed(format!("{runtime} wrote no PID to {}", pid_file.display()));
    tell(text.trim().parse().ok().and_then(Pid::from_raw).ok_or_else(bad)?)?;
    let output = Command::new(runtime).arg("--root").arg(&state).args(["start", &container.id]).output();
    let output = output.trying(format!("run the OCI runtime {runtime:?}"))?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(classify(runtime, &message))
}

/// The socket in the bundle that a runtime sends the terminal to, and its path.
fn console_listener(bundle: &Path) -> Result<(Console, String), RuntimeError> {
    let path = bundle.join("console");
    let _ = fs::remove_file(&path);
    let directory = File::open(bundle).at("open", bundle)?;
    // Through this process's descriptor: a socket's path has 107 bytes, which the bundle's own fills. One from the bundle
    // on would do for runc and crun; youki puts it into a symbolic link elsewhere.
    let short = format!("/proc/{}/fd/{}/console", std::process::id(), directory.as_raw_fd());
    let listener = UnixListener::bind(&short).at("create", &path)?;
    listener.set_nonblocking(true).at("open", &path)?;
    Ok((Console { listener, _directory: directory }, short))
}

/// A listening socket, and what its path leads through.
struct Console {
    listener: UnixListener,
    _directory: File,
}

type Accepted = (UnixStream, SocketAddr);

fn accept_while_alive(
    console: &Console,
    child: &mut std::process::Child,
    runtime: &str,
    log: &Path,
) -> Result<Accepted, RuntimeError> {
    loop {
        match console.listener.accept() {
            Ok(accepted) => {
                accepted.0.set_nonblocking(false).trying("receive the container's terminal")?;
                return Ok(accepted);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).trying("receive the container's terminal"),
        }
        if let Some(status) = child.try_wait().trying(format!("wait for {runtime}"))? {
            return Err(failed(runtime, "create", status, log));
        }
        let mut fds = [rustix::event::PollFd::new(&console.listener, rustix::event::PollFlags::IN)];
        let wait = rustix::event::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        let _ = rustix::event::poll(&mut fds, Some(&wait));
    }
}

/// The last error in the runtime's log: a JSON object a line, as runc and crun write it (`msg`), and youki (`message`, with a
/// trace of calls behind it).
fn failed(runtime: &str, step: &str, status: std::process::ExitStatus, log: &Path) -> RuntimeError {
    let mut text = String::new();
    if let Ok(file) = File::open(log) {
        let _ = file.take(64 << 10).read_to_string(&mut text);
    }
    let message = text.lines().rev().find_map(|line| {
        let entry: serde_json::Value = serde_json::from_str(line).ok()?;
        let said = entry["msg"].as_str().or_else(|| entry["message"].as_str())?;
        let error = entry["level"].as_str().is_some_and(|level| level.eq_ignore_ascii_case("error"));
        said.lines().next().filter(|_| error).map(str::to_owned)
    });
    classify(runtime, &message.unwrap_or_else(|| format!("{step} failed: {status}")))
}

/// What an OCI runtime says, as docker reads it: from the text.
fn classify(runtime: &str, message: &str) -> RuntimeError {
    let lower = message.to_ascii_lowercase();
    // The first two are runc's words, the last one youki's, the others crun's.
    let not_executable = [
        "permission denied",
        "is a directory",
        "is not a regular file",
        "is not executable",
        "not have correct permissions",
    ];
    let code = if not_executable.iter().any(|words| lower.contains(words)) {
        126
    } else if lower.contains("not found") || lower.contains("no such file") {
        127
    } else {
        125
    };
    RuntimeError::Start { code, message: format!("{runtime}: {message}") }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn what_a_runtime_logs_last_says_why_it_failed_and_which_code_that_is() {
        let said = [
            // runc 1.1, crun 1.8, youki 0.7
            (r#"{"level":"error","msg":"exec: \"no\": executable file not found in $PATH","time":""}"#, 127),
            (r#"{"msg":"executable file `no` not found in $PATH: No such file or directory","level":"error"}"#, 127),
            (
                r#"{"level":"ERROR","message":"failed: executable 'no' not found in $PATH\n\nStack backtrace:\n 0: a"}"#,
                127,
            ),
            (
                r#"{"level":"ERROR","message":"executable '/etc' at path '\"/etc\"' does not have correct permissions"}"#,
                126,
            ),
            (r#"{"level":"error","msg":"cannot enter the cgroup"}"#, 125),
        ];
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        for (line, expected) in said {
            fs::write(&log, format!("{line}\n{{\"level\":\"warning\",\"msg\":\"more\"}}\nno json\n")).unwrap();
            let error = failed("r", "create", std::process::ExitStatus::from_raw(256), &log);
            let RuntimeError::Start { code, message } = error else { panic!("{error:?}") };
            assert_eq!(code, expected, "{line}");
            assert!(
                message.starts_with("r: ") && !message.contains('\n') && !message.contains("create failed"),
                "{message}"
            );
        }
        fs::write(&log, "").unwrap();
        let error = failed("r", "create", std::process::ExitStatus::from_raw(256), &log);
        assert_eq!(error.to_string(), "r: create failed: exit status: 1");
    }
}
