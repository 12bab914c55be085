//! Another process in a running container. What runs here is a process of its own, started from the sealed binary: it
//! enters the container's namespaces, makes the process there with the container's seccomp filter, capabilities and
//! control group, and passes its input and output on until it ends.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use oci_spec::runtime::Process;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::container::{Container, ContainerDir, Containers, Status};
use super::create::random_id;
use super::error::{RuntimeError, While};
use super::events::Log;
use super::init::{process, read_error, rootfs, tell_error};
use super::monitor::hub::{Hub, Streams};
use super::monitor::protocol::{self, Exit, Failure, Kill, Kind, frame, frame_of};
use super::{client, seccomp, spec, start, user};
use crate::base::AtPath;
use crate::sys::mount::open_dir;
use crate::sys::process::{self as sys, Fork};

/// The hidden command that makes a process of this binary the other end.
pub const EXEC: &str = "__exec";

/// What is to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// `NAME=VALUE`, over the container's.
    pub env: Vec<String>,
    /// Instead of the container's.
    pub working_dir: Option<String>,
    /// Instead of the container's.
    pub user: Option<String>,
    /// With all capabilities and no filter.
    pub privileged: bool,
    /// With a terminal.
    pub tty: bool,
    /// With standard input.
    pub interactive: bool,
    /// The container's program as the PID namespace of the caller counts it, when that is not the host's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
}

/// The most that a request may have: the kernel takes 2 MiB of arguments and environment with its usual stack, and JSON may
/// need two bytes for one.
const REQUEST_BYTES: usize = 8 << 20;

/// Starts the other end, which waits for [`Kind::Begin`].
pub fn spawn(store_root: &Path, dir: &ContainerDir, request: &Request) -> Result<UnixStream, RuntimeError> {
    let container = dir.container()?;
    dir.state()?.require(Status::can_exec, "run a command in", &container.name)?;
    let root = std::path::absolute(store_root).trying("find the store")?;
    send(client::spawn(dir.path(), &[EXEC.as_ref(), root.as_os_str(), dir.id().as_ref()])?, request)
}

/// The same from a process that is a sealed one already.
pub fn spawn_beside(store_root: &Path, dir: &ContainerDir, request: &Request) -> Result<UnixStream, RuntimeError> {
    send(client::spawn_sealed(&[EXEC.as_ref(), store_root.as_os_str(), dir.id().as_ref()])?, request)
}

fn send(mut stream: UnixStream, request: &Request) -> Result<UnixStream, RuntimeError> {
    let text = serde_json::to_vec(request).map_err(|error| RuntimeError::Malformed(error.to_string()))?;
    if text.len() > REQUEST_BYTES {
        return Err(RuntimeError::usage("the command and its environment are too long"));
    }
    // Pieces that fill a frame, and one that does not.
    let pieces = text.chunks(protocol::FRAME_BYTES);
    let more = text.len().is_multiple_of(protocol::FRAME_BYTES).then_some(&[][..]);
    for piece in pieces.chain(more) {
        protocol::send(&mut stream, Kind::Reload, piece).trying("talk to the container")?;
    }
    Ok(stream)
}

/// The other end of [`send`].
fn receive(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    while text.len() <= REQUEST_BYTES {
        let Ok(Some((Kind::Reload, piece))) = protocol::receive(stream) else { return None };
        text.extend_from_slice(&piece);
        if piece.len() < protocol::FRAME_BYTES {
            return Some(text);
        }
    }
    None
}

/// The other end's life.
pub fn main(store_root: &Path, id: &str, mut control: UnixStream) -> i32 {
    match sys::fork() {
        Ok(Fork::Child) => {}
        Ok(Fork::Parent(_)) => return 0,
        Err(_) => return 1,
    }
    let _ = rustix::process::setsid();
    let dir = Containers::new(store_root).dir(id);
    let Some(text) = receive(&mut control) else { return 1 };
    let failed = |error: &RuntimeError| {
        let code = match error {
            RuntimeError::Start { code, .. } => *code,
            _ => 125,
        };
        frame_of(Kind::Failed, &Failure { code, message: error.to_string() })
    };
    let mut early = match control.try_clone() {
        Ok(early) => early,
        Err(_) => return 1,
    };
    let run = || -> Result<(), RuntimeError> {
        let request: Request =
            serde_json::from_slice(&text).map_err(|error| RuntimeError::Malformed(error.to_string()))?;
        run(store_root, &dir, &request, control)
    };
    match run() {
        Ok(()) => 0,
        Err(error) => {
            let _ = std::io::Write::write_all(&mut early, &failed(&error));
            1
        }
    }
}

fn run(store_root: &Path, dir: &ContainerDir, request: &Request, control: UnixStream) -> Result<(), RuntimeError> {
    let container = dir.container()?;
    let state = dir.state()?;
    state.require(Status::can_exec, "run a command in", &container.name)?;
    let signals = sys::signal_fd(&[libc::SIGCHLD]).trying("wait for signals")?;
    let first = Pid::from_raw(request.pid.unwrap_or(state.pid));
    let first = first.ok_or_else(|| RuntimeError::Conflict("the container has no process".into()))?;
    let pidfd = pidfd_open(first, PidfdFlags::empty()).trying("find the container's process")?;
    // Looked at with the descriptor in hand: a number may be another process's by now.
    if super::start_time(state.pid) != Some(state.pid_start) || !dir.monitor_lives() {
        return Err(RuntimeError::Conflict(format!("container {} is ending", container.name)));
    }
    let root = open_dir(Path::new(&format!("/proc/{}/root", state.pid))).trying("open the container's root")?;
    let (process, filter) = describe(&container, request, &root)?;
    let groups = start::cgroup(&container).open_members()?;
    let id = random_id()?;
    let log = Log::open(store_root).ok();
    let note = |action: &str, more: &[(&str, &str)]| {
        if let Some(log) = &log {
            log.record(&container, action, &[&[("execID", id.as_str())], more].concat());
        }
    };
    let words = request.command.split_first().map(|(name, rest)| format!("{name} {}", rest.join(" ")));
    let words = words.unwrap_or_default();
    note(&format!("exec_create: {words}"), &[]);
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .trying("hide from the container")?;
    enter(&container, &pidfd, &root)?;
    drop(root);
    let mut hub = Hub::new(true);
    hub.accept(control).trying("talk to the command")?;
    let mut begun = false;
    while hub.has_clients() && !begun {
        let (_, requests) = hub.turn(&[], Some(Duration::from_secs(5))).trying("talk to the command")?;
        begun = requests.iter().any(|request| request.kind == Kind::Begin);
        hub.forget_gone();
    }
    note(&format!("exec_start: {words}"), &[]);
    let (pid, streams) = launch(&process, filter.as_deref(), request, groups, hub.size())?;
    hub.connect(streams).trying("connect the process's output")?;
    hub.announce(&frame(Kind::Started, &[]));
    let child = pidfd_open(pid, PidfdFlags::empty()).trying("watch the process")?;
    let code = loop {
        let (extras, requests) = hub.turn(&[signals.as_fd()], None).trying("wait for the process")?;
        if !extras.is_empty() {
            while signals.next().is_some() {}
        }
        for request in requests.iter().filter(|request| request.kind == Kind::Kill) {
            if let Ok(kill) = serde_json::from_slice::<Kill>(&request.payload) {
                let _ = sys::signal(&child, kill.signal);
            }
        }
        hub.forget_gone();
        if let Some(code) = sys::wait(pid, false).trying("wait for the process")? {
            break code;
        }
    };
    hub.drain();
    note("exec_die", &[("exitCode", &code.to_string())]);
    hub.announce(&frame_of(Kind::Exit, &Exit { code }));
    hub.flush(Duration::from_secs(30));
    Ok(())
}

type Filter = Option<Vec<crate::sys::bpf::Instruction>>;

/// The process as the runtime specification describes it, and its filter.
fn describe(container: &Container, request: &Request, root: &OwnedFd) -> Result<(Process, Filter), RuntimeError> {
    let host = &container.host_config;
    let who = request.user.as_deref().unwrap_or(&container.config.user);
    let user = user::resolve(root, who, host.group_add.as_deref().unwrap_or_default())?;
    let privileged = host.privileged || request.privileged;
    let (caps, no_new_privileges) = spec::privileges(container, &user, privileged)?;
    let mut env = spec::environment(container, &user, request.tty);
    spec::merge_env(&mut env, &request.env);
    let own = container.config.working_dir.as_str();
    let cwd = request.working_dir.as_deref().unwrap_or(if own.is_empty() { "/" } else { own });
    let process = json!({
        "terminal": request.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": user.groups},
        "args": request.command,
        "env": env,
        "cwd": cwd,
        "capabilities": caps,
        "noNewPrivileges": no_new_privileges,
    });
    let process = serde_json::from_value(process).map_err(|error| RuntimeError::Malformed(error.to_string()))?;
    let security = spec::security(host.security_opt.as_deref().unwrap_or_default())?;
    if privileged || security.seccomp_off {
        return Ok((process, None));
    }
    let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let caps = super::capability::resolve(&list(&host.cap_add), &list(&host.cap_drop), false)?;
    let profile = match &security.seccomp_file {
        Some(path) => seccomp::profile(&start::read_capped(path, seccomp::PROFILE_BYTES)?, caps)?,
        None => seccomp::default_profile(caps)?,
    };
    Ok((process, Some(seccomp::compile(&profile)?)))
}

/// Enters the container's namespaces and its root; the PID namespace holds for children.
fn enter(container: &Container, pidfd: &OwnedFd, root: &OwnedFd) -> Result<(), RuntimeError> {
    let host = &container.host_config;
    let mut flags = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    flags |= libc::CLONE_NEWNET;
    if host.cgroupns_mode != "host" && !super::cgroup::in_user_namespace() {
        flags |= libc::CLONE_NEWCGROUP;
    }
    sys::setns(pidfd, flags).trying("enter the container's namespaces")?;
    // A mount namespace's root is not always its processes' root: another runtime in a chroot leaves the two apart.
    rustix::process::fchdir(root).and_then(|()| rustix::process::chroot(".")).trying("enter the container's root")
}

fn launch(
    spec: &Process,
    filter: Option<&[crate::sys::bpf::Instruction]>,
    request: &Request,
    groups: Vec<File>,
    size: Option<(u16, u16)>,
) -> Result<(Pid, Streams), RuntimeError> {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).trying("make a pipe");
    let mut streams = Streams::default();
    let mut slave = None;
    let stdio = if request.tty {
        let root = open_dir(Path::new("/")).at("open", "/")?;
        let (master, terminal) = rootfs::open_terminal(&root).trying("open a terminal in the container")?;
        let owner = rustix::fs::Uid::from_raw(spec.user().uid());
        rustix::fs::fchown(&terminal, Some(owner), None).trying("open a terminal in the container")?;
        super::terminal::resize_to(&master, size);
        streams.terminal = Some(master.into());
        let copy = || terminal.try_clone().trying("open a terminal in the container");
        let all = [copy()?, copy()?, copy()?];
        slave = Some(terminal);
        all
    } else {
        let (stdin, to) = pipe()?;
        let ((out, stdout), (err, stderr)) = (pipe()?, pipe()?);
        if request.interactive {
            streams.stdin = Some(to.into());
        }
        (streams.stdout, streams.stderr) = (Some(out.into()), Some(err.into()));
        let all = [stdin, stdout, stderr];
        process::give_pipes(&all, spec.user().uid());
        all
    };
    let ((wait, go), (report, tell)) = (pipe()?, pipe()?);
    let pid = match sys::fork().trying("make the process")? {
        Fork::Parent(pid) => pid,
        Fork::Child => {
            drop((go, report));
            let prepare = || -> Result<(), RuntimeError> {
                if rustix::io::read(&wait, &mut [0]).trying("wait to be started")? == 0 {
                    sys::exit(125);
                }
                rustix::process::setsid().trying("start a session")?;
                if let Some(slave) = &slave {
                    rustix::process::ioctl_tiocsctty(slave).trying("take the terminal")?;
                }
                let [stdin, stdout, stderr] = &stdio;
                process::take_stdio(stdin, stdout, stderr).trying("connect standard input and output")
            };
            let error = match prepare() {
                Ok(()) => process::enter(spec, filter.map(|filter| (filter, 0)), false),
                Err(error) => error,
            };
            tell_error(tell, &error);
            sys::exit(125)
        }
    };
    drop((wait, tell, stdio, slave));
    for mut group in groups {
        std::io::Write::write_all(&mut group, pid.as_raw_nonzero().to_string().as_bytes())
            .trying("join the container's control group")?;
    }
    rustix::io::write(&go, b"g").trying("start the process")?;
    if let Err(error) = read_error(report) {
        let _ = sys::wait(pid, true);
        return Err(error);
    }
    Ok((pid, streams))
}
