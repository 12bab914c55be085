//! Making processes: fork, clone with namespaces, exec; and what a process is before its first instruction.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use rustix::event::{PollFd, Timespec};
use rustix::mm::{Advice, madvise};
use rustix::process::Pid;

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Fork {
    /// The new process.
    Child,
    /// The old one, with the child's PID in its own namespace.
    Parent(Pid),
}

/// How a child is made.
#[derive(Debug, Default)]
pub struct CloneOptions<'a> {
    /// `CLONE_NEW*` flags.
    pub namespaces: i32,
    /// The child becomes a sibling: its parent is the caller's parent.
    pub sibling: bool,
    /// The v2 cgroup directory the child is born in.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Refuses in a process with threads, whose child could find locks held for ever.
fn single_threaded() -> io::Result<()> {
    // Asked of the kernel and not of /proc, which may be another PID namespace's: unsharing threads does nothing in a
    // process that has one, and fails in others (unshare(2)).
    // SAFETY: it changes nothing.
    if unsafe { libc::unshare(libc::CLONE_THREAD) } == 0 {
        Ok(())
    } else {
        Err(io::Error::other("a process with threads cannot fork"))
    }
}

/// Forks a process that has one thread.
pub fn fork() -> io::Result<Fork> {
    single_threaded()?;
    // SAFETY: there is one thread, so the child's memory is consistent.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Pid::from_raw(pid).map(Fork::Parent).ok_or_else(|| io::ErrorKind::InvalidData.into()),
    }
}

/// Forks a process that has one thread, into new namespaces. PIDs are those of the caller's namespace.
pub fn clone(options: &CloneOptions<'_>) -> io::Result<Fork> {
    single_threaded()?;
    let mut flags = options.namespaces as u64;
    if options.sibling {
        flags |= libc::CLONE_PARENT as u64;
    }
    let cgroup = options.cgroup.map_or(0, |fd| {
        flags |= 0x2_0000_0000; // CLONE_INTO_CGROUP
        fd.as_raw_fd() as u64
    });
    // With CLONE_PARENT the exit signal is the caller's own and must be given as zero.
    let exit_signal = if options.sibling { 0 } else { libc::SIGCHLD as u64 };
    let args: [u64; 11] = [flags, 0, 0, 0, exit_signal, 0, 0, 0, 0, 0, cgroup];
    // SAFETY: args is a clone_args structure; no stack is given and memory is not shared, so this is a fork. There is
    // one thread.
    match unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => {
            i32::try_from(pid).ok().and_then(Pid::from_raw).map(Fork::Parent).ok_or(io::ErrorKind::InvalidData.into())
        }
    }
}

/// Leaves namespaces for new ones (`CLONE_NEW*` flags).
pub fn unshare(namespaces: i32) -> io::Result<()> {
    // SAFETY: only namespace flags are passed by callers; none of them changes memory or descriptors.
    if unsafe { libc::unshare(namespaces) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Writes to descriptor 2, for a process that is a container's own and has no other way to speak. What cannot be written
/// is lost.
pub fn write_to_stderr(bytes: &[u8]) {
    // SAFETY: the buffer is valid for its length, and write does not keep it; a closed descriptor gives EBADF.
    unsafe { libc::write(2, bytes.as_ptr().cast(), bytes.len()) };
}

/// Enters namespaces: those of a process (a pidfd and `CLONE_NEW*` flags) or the one a descriptor stands for.
pub fn setns(fd: impl AsFd, namespaces: i32) -> io::Result<()> {
    // SAFETY: the descriptor is valid for the call.
    if unsafe { libc::setns(fd.as_fd().as_raw_fd(), namespaces) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Has the program inherit these descriptors, which must stay open until it is started. They are marked in the child, so
/// that programs other threads start meanwhile do not get them.
pub fn hand_down(command: &mut std::process::Command, fds: Vec<RawFd>) {
    use std::os::unix::process::CommandExt;
    let mark = move || {
        for fd in &fds {
            // SAFETY: F_SETFD on a number; a wrong one fails.
            if unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec only fcntl is called, which is async-signal-safe; nothing is allocated.
    unsafe {
        command.pre_exec(mark);
    }
}

/// Ends the process at once, without running anything that was registered for its end.
pub fn exit(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Text for a system call; a NUL inside is an error.
pub fn c_string(text: impl AsRef<std::ffi::OsStr>) -> io::Result<CString> {
    CString::new(text.as_ref().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// What is to be executed.
pub enum Program<'a> {
    /// A path.
    Path(&'a CString),
    /// An open file.
    File(BorrowedFd<'a>),
}

/// Becomes another program. Returns only on failure.
pub fn exec(program: Program<'_>, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with a null pointer and their strings outlive the call.
    unsafe {
        match program {
            Program::Path(path) => libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()),
            Program::File(file) => libc::syscall(
                libc::SYS_execveat,
                file.as_raw_fd(),
                c"".as_ptr(),
                args.as_ptr(),
                env.as_ptr(),
                libc::AT_EMPTY_PATH,
            ) as i32,
        };
    }
    io::Error::last_os_error()
}

/// Marks every descriptor from `first` on to be closed by exec.
pub fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: nothing is closed now; the flag is all that changes.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) };
    if done == 0 {
        return Ok(());
    }
    // Kernels before 5.11 do not know the flag.
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let fd = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        if let Some(fd) = fd.filter(|fd| *fd >= first) {
            // SAFETY: F_SETFD on a number; a wrong one fails.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

/// Makes `fd` descriptor number `number`, kept over exec. What had the number is closed.
pub fn place(fd: impl AsFd, number: RawFd) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: both are descriptor numbers of this process; the caller owns what `number` stands for.
    let done = unsafe { if fd == number { libc::fcntl(fd, libc::F_SETFD, 0) } else { libc::dup2(fd, number) } };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes over a descriptor that this process was started with. `None` when there is none of that number.
pub fn inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_GETFD on any number is harmless.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return None;
    }
    // SAFETY: the number is open, and the caller is the start of a program that was handed it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// All signals to their defaults and none blocked: how a program expects to start.
pub fn default_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is a valid disposition; the two signals that cannot be changed fail harmlessly.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: an empty set is valid.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
    }
}

/// Has a program start with [`default_signals`], whatever this process blocks.
pub fn with_default_signals(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let reset = || {
        default_signals();
        Ok(())
    };
    // SAFETY: what runs between fork and exec are signal(2) and sigprocmask(2), which may.
    unsafe { command.pre_exec(reset) };
}

/// Blocks `signals` and gives a descriptor from which they are read instead.
pub fn signal_fd(signals: &[i32]) -> io::Result<SignalFd> {
    // SAFETY: the set is initialised before it is used.
    let fd = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in signals {
            libc::sigaddset(&mut set, *signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened and nobody else's.
    Ok(SignalFd(unsafe { File::from_raw_fd(fd) }))
}

/// Signals as something to read.
#[derive(Debug)]
pub struct SignalFd(File);

impl SignalFd {
    /// The next signal that has come, if one has.
    pub fn next(&self) -> Option<i32> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        let n = io::Read::read(&mut &self.0, &mut info).ok()?;
        let number = info.get(..4).filter(|_| n == info.len())?;
        Some(u32::from_ne_bytes(number.try_into().ok()?) as i32)
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// How a child ended, as shells count it: the exit code, or 128 and the signal.
pub fn wait(pid: Pid, block: bool) -> io::Result<Option<i32>> {
    use rustix::process::{WaitOptions, waitpid};
    let options = if block { WaitOptions::empty() } else { WaitOptions::NOHANG };
    loop {
        match waitpid(Some(pid), options) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(None) => return Ok(None),
            Ok(Some((_, status))) => {
                if let Some(code) = status.exit_status() {
                    return Ok(Some(code));
                }
                if let Some(signal) = status.terminating_signal() {
                    return Ok(Some(128 + signal));
                }
            }
        }
    }
}

/// A child that has ended and is not collected yet.
pub fn ended_child() -> Option<Pid> {
    // SAFETY: siginfo is plain data for which zero is valid; WNOWAIT leaves the child as it is.
    let (done, info) = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        (libc::waitid(libc::P_ALL, 0, &mut info, flags), info)
    };
    // SAFETY: waitid filled the structure, or left it zero.
    if done == 0 { Pid::from_raw(unsafe { info.si_pid() }) } else { None }
}

/// Sends any signal number, real-time ones too, to the process of a pidfd.
pub fn signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: no siginfo is passed.
    let done = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, std::ptr::null::<u8>(), 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// This program's code and constants in memory: what of its file is mapped and was never written to.
#[derive(Debug, Default)]
pub struct Code(Vec<(usize, usize)>);

impl Code {
    /// Finds them.
    pub fn find() -> io::Result<Self> {
        Ok(Self(unwritten_mappings(&std::fs::read_to_string("/proc/self/smaps")?)))
    }

    /// Lets go of them: what is used later comes back from the file, a few pages instead of all that has ever been. For
    /// a process that now waits, maybe for long.
    pub fn forget(&self) -> io::Result<()> {
        for (start, end) in &self.0 {
            // SAFETY: a private mapping of a file that is not to be written and never was: its pages come back from the
            // file with the same bytes when they are touched, this very instruction's included.
            unsafe { madvise(*start as *mut std::ffi::c_void, end - start, Advice::LinuxDontNeed) }?;
        }
        Ok(())
    }

    /// The same, and then poll(2): one function, so that the kernel, which brings code back by the 64 KiB and more, has
    /// little to bring back for the time of waiting.
    #[inline(never)]
    pub fn forget_and_poll(&self, fds: &mut [PollFd<'_>], timeout: Option<&Timespec>) -> rustix::io::Result<usize> {
        for (start, end) in &self.0 {
            // SAFETY: as above.
            let _ = unsafe { madvise(*start as *mut std::ffi::c_void, end - start, Advice::LinuxDontNeed) };
        }
        rustix::event::poll(fds, timeout)
    }
}

/// The private read-only mappings of files, by `/proc/PID/smaps` (proc_pid_smaps(5)), that hold no page of their own: one
/// may once have been writable, as tables that were relocated and then protected.
fn unwritten_mappings(smaps: &str) -> Vec<(usize, usize)> {
    let number = |text: &str| usize::from_str_radix(text, 16).ok();
    let mut found = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        // start-end permissions offset device inode path, then lines of `Name: value`
        let mut fields = line.split_ascii_whitespace();
        let Some(first) = fields.next() else { continue };
        if let Some((Some(start), Some(end))) = first.split_once('-').map(|(a, b)| (number(a), number(b))) {
            let readable = matches!(fields.next(), Some("r-xp" | "r--p"));
            let of_a_file = fields.nth(2).is_some_and(|inode| inode != "0");
            candidate = (readable && of_a_file && start < end).then_some((start, end));
        } else if first == "Anonymous:" && fields.next() == Some("0") {
            found.extend(candidate.take());
        }
    }
    found
}

/// Whether the kernel may back this process's memory, and that of the programs it starts, with huge pages. Gives what was
/// before. A process that stays for long with little to remember does better without: one byte takes 2 MiB with them.
pub fn allow_huge_pages(allow: bool) -> io::Result<bool> {
    // SAFETY: both take plain numbers and change nothing but a flag of the process.
    let (before, done) = unsafe {
        let before = libc::prctl(libc::PR_GET_THP_DISABLE, 0, 0, 0, 0);
        (before, libc::prctl(libc::PR_SET_THP_DISABLE, i32::from(!allow), 0, 0, 0))
    };
    if before >= 0 && done == 0 { Ok(before == 0) } else { Err(io::Error::last_os_error()) }
}

/// Takes on user and groups, for real, effective and saved IDs at once.
pub fn set_ids(uid: u32, gid: u32, groups: Option<&[u32]>) -> io::Result<()> {
    let check = |done: i64| if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: plain numbers; the list is valid for its length. Raw calls change this thread, the only one.
    unsafe {
        if let Some(groups) = groups {
            check(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
        }
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))
    }
}

/// Sets a resource limit of this process; `resource` is a `RLIMIT_*` number, `u64::MAX` is no limit.
pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the structure is valid, and this process is the one of PID 0.
    let done = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &limit, std::ptr::null::<u8>()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mappings_of_files_that_were_never_written_to_are_let_go() {
        let mapping = |head: &str, own: u32| format!("{head}\nRss: 8 kB\nAnonymous:   {own} kB\nVmFlags: rd\n");
        let smaps = [
            mapping("1000-2000 r--p 00000000 08:01 7    /ferry", 0),
            mapping("2000-4000 r-xp 00001000 08:01 7    /ferry", 0),
            mapping("4000-5000 r--p 00003000 08:01 7    /ferry", 4),
            mapping("5000-6000 rw-p 00004000 08:01 7    /ferry", 0),
            mapping("6000-7000 r--p 00000000 00:00 0", 0),
            mapping("7000-8000 r-xp 00000000 00:00 0    [vdso]", 0),
            mapping("8000-9000 r--s 00000000 08:01 8    /shared", 0),
        ];
        assert_eq!(unwritten_mappings(&smaps.concat()), [(0x1000, 0x2000), (0x2000, 0x4000)]);
        assert!(!Code::find().unwrap().0.is_empty());
        Code::find().unwrap().forget().unwrap();
    }
}
