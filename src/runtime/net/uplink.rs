//! A way out of a container's network without root: pasta, or slirp4netns, where the host has one of them. Both copy
//! packets between a link in the container and sockets of an ordinary process.

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Helper;
use crate::sys::process;

/// Where programs are: what users' own directories hold is not trusted with a container's network.
const DIRECTORIES: [&str; 5] = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin"];

fn program(name: &str) -> Option<PathBuf> {
    DIRECTORIES.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.is_file())
}

/// Gives the network namespace of `process`, a PID of the host, a way out. `scratch` is a directory of the caller's.
/// `None` when there is no program for it; an error is the reason why one that is there did not do it.
pub(super) fn start(pid: i32, scratch: &Path) -> Option<io::Result<Helper>> {
    let namespace = format!("/proc/{pid}/ns/net");
    let pasta = program("pasta").map(|program| pasta(&program, &namespace, scratch));
    match (pasta, program("slirp4netns")) {
        (Some(Err(_)) | None, Some(program)) => Some(slirp(&program, &namespace)),
        (pasta, _) => pasta,
    }
}

/// Comes back from its start when the link is there, and ends by itself when the namespace does.
fn pasta(program: &Path, namespace: &str, scratch: &Path) -> io::Result<Helper> {
    let file = scratch.join("pasta.pid");
    // Published ports are the proxy's.
    let output = Command::new(program)
        .args(["--config-net", "--quiet", "--no-map-gw", "-t", "none", "-u", "none", "-T", "none", "-U", "none"])
        .args(["--netns", namespace, "--pid"])
        .arg(&file)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("pasta: {}", last_line(&output.stderr))));
    }
    let text = fs::read_to_string(&file)?;
    let _ = fs::remove_file(&file);
    Helper::of(text.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?)
}

fn slirp(program: &Path, namespace: &str) -> io::Result<Helper> {
    let (ready, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let mut command = Command::new(program);
    process::hand_down(&mut command, vec![tell.as_raw_fd()]);
    let child = command
        .args(["--configure", "--mtu=65520", "--disable-host-loopback", "--netns-type=path"])
        .arg(format!("--ready-fd={}", tell.as_raw_fd()))
        .args([namespace, "tap0"])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    drop(tell);
    let mut byte = [0];
    fs::File::from(ready)
        .read_exact(&mut byte)
        .map_err(|_| io::Error::other("slirp4netns ended before the link was there"))?;
    Helper::of(child.id())
}

/// Where such programs say why; what comes before are remarks.
fn last_line(text: &[u8]) -> String {
    String::from_utf8_lossy(text).lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it failed").to_owned()
}
