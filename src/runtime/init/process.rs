//! The last steps to a container's program, for its first process and for exec alike: limits, privileges, user,
//! seccomp, exec.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{PosixRlimitType, Process};
use rustix::fs::{Access, AtFlags, CWD, FileType, Uid, accessat, fchown, fstat};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use crate::runtime::capability::CapSet;
use crate::runtime::error::{RuntimeError, While};
use crate::sys::bpf::{self, Instruction};
use crate::sys::process::{self, Program, c_string};

/// Takes over standard input, output and error.
pub fn take_stdio(stdin: impl AsFd, stdout: impl AsFd, stderr: impl AsFd) -> io::Result<()> {
    process::place(stdin, 0)?;
    process::place(stdout, 1)?;
    process::place(stderr, 2)
}

/// Gives the pipes among a program's streams to the user it runs as, who may open them again by `/dev/stdout`, as
/// nginx's image does. Anything else that stands there, the host's `/dev/null`, is not the program's. Where the user
/// is not mapped the pipes stay as they are: they can be used, though not opened again.
pub fn give_pipes(streams: &[OwnedFd; 3], user: u32) {
    let is_pipe = |fd: &&OwnedFd| fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
    for pipe in streams.iter().filter(is_pipe) {
        let _ = fchown(pipe, Some(Uid::from_raw(user)), None);
    }
}

/// Sets how gladly the kernel kills this process for want of memory. Before the root is changed: `/proc` is the host's.
pub fn set_oom_score(score: Option<i32>) -> Result<(), RuntimeError> {
    let Some(score) = score else { return Ok(()) };
    match std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        // Without CAP_SYS_RESOURCE it only goes up. Docker's rootless mode leaves it, too.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        done => done.trying("set oom_score_adj"),
    }
}

/// Becomes the program of `spec`, which never returns but with the reason why it could not. Descriptors from 3 on are
/// closed by then. `filter` is the seccomp filter; `die_with_parent` ties the process to its monitor.
pub fn enter(spec: &Process, filter: Option<(&[Instruction], u32)>, die_with_parent: bool) -> RuntimeError {
    match try_enter(spec, filter, die_with_parent) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn try_enter(
    spec: &Process,
    filter: Option<(&[Instruction], u32)>,
    die_with_parent: bool,
) -> Result<std::convert::Infallible, RuntimeError> {
    for limit in spec.rlimits().iter().flatten() {
        process::set_rlimit(rlimit_number(limit.typ()), limit.soft(), limit.hard()).trying(format!(
            "set the limit {} to {}:{} (raising one needs CAP_SYS_RESOURCE)",
            limit.typ(),
            limit.soft(),
            limit.hard()
        ))?;
    }
    process::close_on_exec_from(3).trying("close descriptors")?;
    // Only its monitor does without.
    let _ = process::allow_huge_pages(true);
    let no_new_privs = spec.no_new_privileges() == Some(true);
    if no_new_privs {
        rustix::thread::set_no_new_privs(true).trying("set no_new_privs")?;
    }
    let caps = spec.capabilities().clone().unwrap_or_default();
    let set = |names: &Option<oci_spec::runtime::Capabilities>| {
        let texts: Vec<String> = names.iter().flatten().map(|name| name.to_string()).collect();
        let full: Vec<String> =
            texts.into_iter().map(|t| if t.starts_with("CAP_") { t } else { format!("CAP_{t}") }).collect();
        CapSet::of(full.iter().map(String::as_str))
    };
    let bounding = set(caps.bounding());
    // Without no_new_privs a filter needs CAP_SYS_ADMIN, which is about to go. Docker's profile allows what follows.
    if let (Some((filter, flags)), false) = (filter, no_new_privs) {
        bpf::install(filter, flags).trying("install the seccomp filter")?;
    }
    drop_bounding(bounding).trying("drop capabilities")?;
    let user = spec.user();
    let groups = user.additional_gids().clone().unwrap_or_default();
    rustix::thread::set_keep_capabilities(true).trying("keep capabilities")?;
    // In a namespace of one ID there are no groups to set, and the kernel forbids it.
    let may_set_groups = std::fs::read_to_string("/proc/self/setgroups").map_or(true, |text| text.trim() != "deny");
    process::set_ids(user.uid(), user.gid(), may_set_groups.then_some(groups.as_slice())).trying(format!(
        "become user {}:{} (is it mapped in the container's user namespace?)",
        user.uid(),
        user.gid()
    ))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(user.umask().unwrap_or(0o022)));
    // The working directory is entered with the user's rights and all capabilities still there, as runc does first.
    enter_cwd(spec.cwd())?;
    rustix::thread::set_keep_capabilities(false).trying("keep capabilities")?;
    let bits = |set: CapSet| CapabilitySet::from_bits_retain(set.0);
    let sets = CapabilitySets {
        effective: bits(set(caps.effective())),
        permitted: bits(set(caps.permitted())),
        inheritable: bits(set(caps.inheritable())),
    };
    set_capabilities(None, sets).trying("set capabilities")?;
    let ambient = set(caps.ambient());
    for number in (0..=CapSet::LAST).filter(|n| ambient.0 >> n & 1 == 1) {
        let one = CapabilitySet::from_bits_retain(1 << number);
        rustix::thread::configure_capability_in_ambient_set(one, true).trying("raise ambient capabilities")?;
    }
    // The kernel forgets it when IDs or capabilities change.
    if die_with_parent {
        set_parent_process_death_signal(Some(Signal::KILL)).trying("tie the container to its monitor")?;
    }
    let args = spec.args().clone().unwrap_or_default();
    let env: Vec<String> = spec.env().clone().unwrap_or_default();
    let Some(name) = args.first() else {
        return Err(RuntimeError::Start { code: 125, message: "the container has no command to run".into() });
    };
    let file = find_program(name, &env)?;
    let strings = |list: &[String]| list.iter().map(c_string).collect::<io::Result<Vec<CString>>>();
    let what = "pass the command and its environment on";
    let (args, env) = (strings(&args).trying(what)?, strings(&env).trying(what)?);
    process::default_signals();
    if let (Some((filter, flags)), true) = (filter, no_new_privs) {
        bpf::install(filter, flags).trying("install the seccomp filter")?;
    }
    let error = process::exec(Program::Path(&file), &args, &env);
    Err(start_error(name, &error))
}

fn drop_bounding(keep: CapSet) -> io::Result<()> {
    for number in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if keep.0 >> number & 1 == 0 {
            match rustix::thread::remove_capability_from_bounding_set(one) {
                // Past the kernel's last one.
                Err(rustix::io::Errno::INVAL) => break,
                done => done?,
            }
        }
    }
    Ok(())
}

fn enter_cwd(cwd: &Path) -> Result<(), RuntimeError> {
    let what = || format!("enter the working directory {}", cwd.display());
    rustix::process::chdir(cwd).trying(what())?;
    // A directory outside the root (a leaked descriptor as /proc/self/fd/N) shows as unreachable.
    let real = rustix::process::getcwd(Vec::new()).trying(what())?;
    if real.to_bytes().starts_with(b"/") {
        return Ok(());
    }
    Err(RuntimeError::Start {
        code: 126,
        message: format!("the working directory {} is outside the container", cwd.display()),
    })
}

/// Looks the program up as execvp does, in the container's PATH.
fn find_program(name: &str, env: &[String]) -> Result<CString, RuntimeError> {
    let bad = "find the command";
    if name.contains('/') {
        return c_string(name).trying(bad);
    }
    let path = env.iter().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or_default();
    let mut denied = false;
    for directory in path.split(':') {
        let candidate = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        let executable = std::fs::metadata(&candidate).is_ok_and(|meta| meta.is_file());
        if !executable {
            continue;
        }
        if accessat(CWD, &candidate, Access::EXEC_OK, AtFlags::EACCESS).is_ok() {
            return c_string(&candidate).trying(bad);
        }
        denied = true;
    }
    let (code, why) = if denied { (126, "permission denied") } else { (127, "executable file not found in $PATH") };
    Err(RuntimeError::Start { code, message: format!("exec: {name:?}: {why}") })
}

fn start_error(name: &str, error: &io::Error) -> RuntimeError {
    let (code, why) = match error.kind() {
        io::ErrorKind::NotFound => (127, "no such file or directory".to_owned()),
        io::ErrorKind::PermissionDenied => (126, "permission denied".to_owned()),
        _ => (126, error.to_string()),
    };
    RuntimeError::Start { code, message: format!("exec: {name:?}: {why}") }
}

fn rlimit_number(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
    .cast()
}

/// glibc and musl disagree about the type of `RLIMIT_*`.
trait Cast {
    fn cast(self) -> u32;
}

impl Cast for u32 {
    fn cast(self) -> u32 {
        self
    }
}

impl Cast for i32 {
    fn cast(self) -> u32 {
        self as u32
    }
}
