//! The built-in executor: runs an OCI runtime document. The caller is a process with one thread, run from the sealed
//! copy of the binary; the child it makes becomes the container's first process.

pub mod mounts;
pub mod process;
pub mod reaper;
pub mod rootfs;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};
use rustix::process::{Pid, Signal, set_dumpable_behavior, set_parent_process_death_signal};

use super::cgroup::Cgroup;
use super::error::{RuntimeError, While};
use super::{seccomp, terminal};
use crate::sys::process::{CloneOptions, Fork};
use crate::sys::{mount as sys_mount, process as sys};

/// What the container's first process reads from and writes to.
#[derive(Debug)]
pub enum Stdio {
    /// Three descriptors.
    Plain([OwnedFd; 3]),
    /// A terminal of the container's own, whose master side is sent through this socket; and its size, in rows and columns,
    /// which programs ask for when they begin.
    Terminal(OwnedFd, Option<(u16, u16)>),
}

/// A container whose first process waits for [`Prepared::release`].
#[derive(Debug)]
pub struct Prepared {
    /// The process, in the caller's PID namespace.
    pub pid: Pid,
    go: OwnedFd,
    report: OwnedFd,
}

/// Makes the container's first process, in its namespaces and control group, and lets it wait. It is a child of the
/// caller's parent. The caller must be in a mount namespace of its own, which it hands over: it may do nothing with
/// paths any more after [`Prepared::release`].
pub fn prepare(spec: &Spec, root: &Path, cgroup: Option<&Cgroup>, stdio: Stdio) -> Result<Prepared, RuntimeError> {
    let filter = match spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) {
        Some(profile) => Some(seccomp::compile(profile)?),
        None => None,
    };
    let (mut namespaces, mut user) = (0, false);
    for namespace in spec.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten()) {
        let flag = namespace_flag(namespace.typ());
        match namespace.path() {
            Some(path) => {
                let what = || format!("enter the namespace {}", path.display());
                sys::setns(File::open(path).trying(what())?, flag).trying(what())?;
            }
            // The mount namespace is the caller's; the control group namespace comes when the groups are joined.
            None if matches!(namespace.typ(), LinuxNamespaceType::Mount | LinuxNamespaceType::Cgroup) => {}
            None => {
                user |= namespace.typ() == LinuxNamespaceType::User;
                namespaces |= flag;
            }
        }
    }
    if user {
        // Mounts belong to the user namespace that their mount namespace was made in.
        namespaces |= libc::CLONE_NEWNS;
    }
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).trying("make a pipe");
    let ((wait, go), (report, tell)) = (pipe()?, pipe()?);
    let v2 = match cgroup.and_then(Cgroup::v2_dir) {
        Some(dir) => Some(File::open(&dir).trying(format!("open {}", dir.display()))?),
        None => None,
    };
    let options = CloneOptions { namespaces, sibling: true, cgroup: v2.as_ref().map(AsFd::as_fd) };
    let made = match sys::clone(&options) {
        // Before 5.7 there is no birth in a group.
        Err(_) if v2.is_some() => sys::clone(&CloneOptions { cgroup: None, ..options }),
        made => made,
    };
    let pid = match made.trying("make the container's namespaces")? {
        Fork::Parent(pid) => pid,
        Fork::Child => {
            drop((go, report));
            let error = child(spec, root, wait, stdio, filter.as_deref(), user);
            tell_error(tell, &error);
            sys::exit(125)
        }
    };
    if let Some(cgroup) = cgroup {
        cgroup.join(pid)?;
    }
    if user {
        map_ids(spec, pid)?;
    }
    Ok(Prepared { pid, go, report })
}

impl Prepared {
    /// Lets the process go on, and waits until it has become the container's program or has failed to.
    pub fn release(self) -> Result<(), RuntimeError> {
        rustix::io::write(&self.go, b"g").trying("start the container's first process")?;
        drop(self.go);
        read_error(self.report)
    }
}

/// Sends why a container's process could not be started to the one who waits for it.
pub fn tell_error(to: OwnedFd, error: &RuntimeError) {
    let code = match error {
        RuntimeError::Start { code, .. } => *code,
        _ => 125,
    };
    // Whoever waits may be gone; there is nobody else to tell.
    let _ = File::from(to).write_all(format!("{code} {error}").as_bytes());
}

/// Waits for the other end to be closed by an exec, or for what [`tell_error`] sent.
pub fn read_error(from: OwnedFd) -> Result<(), RuntimeError> {
    let mut text = String::new();
    File::from(from).take(64 << 10).read_to_string(&mut text).trying("read the container's first message")?;
    match text.split_once(' ') {
        None if text.is_empty() => Ok(()),
        Some((code, message)) => {
            Err(RuntimeError::Start { code: code.parse().unwrap_or(125), message: message.to_owned() })
        }
        None => Err(RuntimeError::Start { code: 125, message: text }),
    }
}

fn namespace_flag(kind: LinuxNamespaceType) -> i32 {
    match kind {
        LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
        LinuxNamespaceType::User => libc::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
        LinuxNamespaceType::Network => libc::CLONE_NEWNET,
        LinuxNamespaceType::Time => 0x80,
    }
}

fn map_ids(spec: &Spec, pid: Pid) -> Result<(), RuntimeError> {
    let lines = |map: &Option<Vec<LinuxIdMapping>>| -> String {
        let one = |m: &LinuxIdMapping| format!("{} {} {}\n", m.container_id(), m.host_id(), m.size());
        map.iter().flatten().map(one).collect()
    };
    let Some(linux) = spec.linux() else { return Ok(()) };
    for (file, map) in [("uid_map", lines(linux.uid_mappings())), ("gid_map", lines(linux.gid_mappings()))] {
        let path = format!("/proc/{pid}/{file}");
        std::fs::write(&path, map).trying(format!("write {path}"))?;
    }
    Ok(())
}

/// The container's first process, up to its program. Comes back only with an error.
fn child(
    spec: &Spec,
    root: &Path,
    wait: OwnedFd,
    stdio: Stdio,
    filter: Option<&[crate::sys::bpf::Instruction]>,
    user: bool,
) -> RuntimeError {
    match steps(spec, root, wait, stdio, user) {
        Ok(()) => {}
        Err(error) => return error,
    }
    let Some(process) = spec.process() else {
        return RuntimeError::Malformed("the document has no process".into());
    };
    process::enter(process, filter.map(|filter| (filter, 0)), true)
}

fn steps(spec: &Spec, root: &Path, wait: OwnedFd, stdio: Stdio, user: bool) -> Result<(), RuntimeError> {
    // Nothing inside may look into this process while it still has the host's descriptors.
    set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).trying("hide from the container")?;
    set_parent_process_death_signal(Some(Signal::KILL)).trying("tie the container to its monitor")?;
    let mut go = [0];
    if rustix::io::read(&wait, &mut go).trying("wait to be started")? == 0 {
        // The one who would release this process is gone.
        sys::exit(125);
    }
    drop(wait);
    if user {
        sys::set_ids(0, 0, None).trying("become root of the user namespace")?;
    }
    rustix::process::setsid().trying("start a session")?;
    let wants = |kind| {
        let mut all = spec.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten());
        all.any(|namespace| namespace.typ() == kind && namespace.path().is_none())
    };
    if wants(LinuxNamespaceType::Cgroup) {
        sys::unshare(libc::CLONE_NEWCGROUP).trying("make a control group namespace")?;
    }
    if let Some(name) = spec.hostname() {
        rustix::system::sethostname(name.as_bytes()).trying("set the host name")?;
    }
    process::set_oom_score(spec.process().as_ref().and_then(|process| process.oom_score_adj()))?;
    rustix::process::umask(rustix::fs::Mode::empty());
    rootfs::leave_propagation()?;
    let root = rootfs::open_root(root)?;
    rootfs::prepare(&root, spec)?;
    sysctls(spec, &root)?;
    match stdio {
        Stdio::Plain([stdin, stdout, stderr]) => {
            process::take_stdio(&stdin, &stdout, &stderr).trying("connect standard input and output")?;
        }
        Stdio::Terminal(socket, size) => {
            let (master, slave) = rootfs::open_terminal(&root).trying("open the container's terminal")?;
            terminal::resize_to(&master, size);
            let uid = spec.process().as_ref().map_or(0, |process| process.user().uid());
            take_terminal(&root, master, slave, &socket, uid)?;
        }
    }
    rootfs::change_root(&root)?;
    drop(root);
    rootfs::seal(spec)
}

fn take_terminal(
    root: &OwnedFd,
    master: OwnedFd,
    slave: OwnedFd,
    socket: &OwnedFd,
    uid: u32,
) -> Result<(), RuntimeError> {
    let owner = rustix::fs::Uid::from_raw(uid);
    let done = || -> io::Result<()> {
        rustix::fs::fchown(&slave, Some(owner), None)?;
        mounts::bind_open(root, &slave, Path::new("/dev/console"))?;
        terminal::send(socket, &master)?;
        rustix::process::ioctl_tiocsctty(&slave)?;
        process::take_stdio(&slave, &slave, &slave)
    };
    done().trying("set up the container's terminal")
}

/// Kernel settings that belong to a namespace; any other would be the host's.
fn sysctls(spec: &Spec, root: &OwnedFd) -> Result<(), RuntimeError> {
    let Some(sysctl) = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref()) else { return Ok(()) };
    for (key, value) in sysctl {
        let path = format!("proc/sys/{}", key.replace('.', "/"));
        let what = || format!("set the kernel setting {key}");
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NOFOLLOW;
        let file = sys_mount::open_in_root(root, path.as_str(), flags).trying(what())?;
        let kind = rustix::fs::fstatfs(&file).trying(what())?.f_type;
        if kind as u64 != 0x9fa0 {
            return Err(RuntimeError::Malformed(format!("cannot {}: /proc is not the kernel's", what())));
        }
        rustix::io::write(&file, value.as_bytes()).trying(what())?;
    }
    Ok(())
}
