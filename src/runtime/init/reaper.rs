//! `--init`: the container's first process, which passes signals on to the program and collects what it leaves behind.
//! It is this binary under the name that docker's init has.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::sys::process as sys;

/// Signals that tell of this process's own faults, or cannot be passed on.
const OWN: [i32; 9] = [4, 5, 6, 7, 8, 9, 11, 19, 31];

/// Runs the program and what its words are; gives its exit code.
pub fn main(mut words: Vec<OsString>) -> i32 {
    if words.first().is_some_and(|word| word == "--") {
        words.remove(0);
    }
    let Some((program, args)) = words.split_first() else { return failed("there is no program to run", 1) };
    let passed: Vec<i32> = (1..=64).filter(|signal| !OWN.contains(signal)).collect();
    let signals = match sys::signal_fd(&passed) {
        Ok(signals) => signals,
        Err(error) => return failed(&error.to_string(), 1),
    };
    let mut command = Command::new(program);
    sys::with_default_signals(&mut command);
    // In a group of its own.
    let child = match command.args(args).process_group(0).spawn() {
        Ok(child) => child,
        Err(error) => {
            let code = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
            return failed(&format!("exec {} failed: {error}", program.to_string_lossy()), code);
        }
    };
    let child = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let Some(child) = child else { return failed("the program has no PID", 1) };
    // In front of the terminal, if there is one: what is typed there is for the program.
    let _ = rustix::termios::tcsetpgrp(std::io::stdin(), child);
    let pidfd = match pidfd_open(child, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(error) => return failed(&error.to_string(), 1),
    };
    loop {
        while let Some(signal) = signals.next() {
            if signal == libc::SIGCHLD {
                continue;
            }
            // It may have ended: that is found out next.
            let _ = sys::signal(&pidfd, signal);
        }
        while let Some(pid) = sys::ended_child() {
            match sys::wait(pid, false) {
                Ok(Some(code)) if pid == child => return code,
                Ok(_) => {}
                Err(_) => break,
            }
        }
        let _ = poll(&mut [PollFd::new(&signals, PollFlags::IN)], None);
    }
}

fn failed(why: &str, code: i32) -> i32 {
    // This is the container's first process: there is nobody else to tell than who reads the container's output.
    sys::write_to_stderr(format!("docker-init: {why}\n").as_bytes());
    code
}
