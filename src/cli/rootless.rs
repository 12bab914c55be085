//! Ordinary users: ferry becomes root of a user namespace before it does anything. With subordinate IDs (`/etc/subuid`,
//! set up by newuidmap) images keep their owners; without, everything is the one user's. Commands about containers that
//! run join the namespace that those are in.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::runtime::container::Containers;
use crate::sys::process::{self as sys, Fork};

/// What touches no store and no container.
const NOT_NEEDED: [&str; 4] = ["completion", "help", "man", "version"];

/// Enters the namespace, and starts this program again there. Comes back when there is nothing to enter: for root, for
/// commands that need none, and where the host lets users make no namespaces. Gives what the user should know then.
pub fn enter(root: &Path) -> Option<String> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let command = words.iter().find(|word| !word.as_encoded_bytes().starts_with(b"-"));
    if uid.is_root() || command.is_none_or(|command| NOT_NEEDED.iter().any(|known| *known == command)) {
        return None;
    }
    let root = root_of(&words).unwrap_or_else(|| root.to_owned());
    let joined = living(&root).is_some_and(|namespace| sys::setns(&namespace, libc::CLONE_NEWUSER).is_ok());
    if !joined && let Err(why) = make(uid.as_raw(), gid.as_raw()) {
        return Some(why);
    }
    if let Err(error) = sys::set_ids(0, 0, None) {
        return Some(format!("cannot become root of a user namespace: {error}"));
    }
    let error = Command::new("/proc/self/exe").arg0("ferry").args(&words).env("FERRY_ROOT", &root).exec();
    Some(format!("cannot start ferry in its user namespace: {error}"))
}

/// `--root` as it is on the command line: it is needed before the rest is understood.
fn root_of(words: &[OsString]) -> Option<PathBuf> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--root" {
            return words.next().map(PathBuf::from);
        }
        if let Some(path) = word.as_encoded_bytes().strip_prefix(b"--root=") {
            return Some(PathBuf::from(<OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(path)));
        }
    }
    None
}

/// The user namespace of a container's monitor that lives.
fn living(root: &Path) -> Option<File> {
    let containers = Containers::new(root);
    let monitors = containers.ids().ok()?.into_iter().filter_map(|id| containers.dir(&id).monitor());
    monitors.filter_map(|pid| File::open(format!("/proc/{pid}/ns/user")).ok()).next()
}

/// Makes a namespace and maps IDs in it. The mapping is made from outside, by a child that stays there.
fn make(uid: u32, gid: u32) -> Result<(), String> {
    let failed = |what: &str, error: std::io::Error| format!("cannot {what}: {error}");
    let ranges = Ranges::of(uid);
    let tool = ranges.is_some();
    let pipe =
        || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| failed("make a pipe", e.into()));
    let ((wait, go), (answer, tell)) = (pipe()?, pipe()?);
    let own = rustix::process::getpid();
    let helper = match sys::fork().map_err(|error| failed("start a helper", error))? {
        Fork::Parent(pid) => pid,
        Fork::Child => {
            drop((go, answer));
            let mut byte = [0];
            if File::from(wait).read_exact(&mut byte).is_ok()
                && let Some(ranges) = ranges
                && let Err(why) = ranges.map(own.as_raw_nonzero().get(), uid, gid)
            {
                let _ = File::from(tell).write_all(why.as_bytes());
            }
            sys::exit(0);
        }
    };
    drop((wait, tell));
    let unshared = sys::unshare(libc::CLONE_NEWUSER);
    if unshared.is_ok() {
        let _ = rustix::io::write(&go, b"g");
    }
    drop(go);
    let mut why = String::new();
    let _ = File::from(answer).take(4096).read_to_string(&mut why);
    let _ = sys::wait(helper, true);
    unshared.map_err(|error| failed("make a user namespace, which containers of users need", error))?;
    if tool && why.is_empty() {
        return Ok(());
    }
    // One ID is what everybody may map.
    let write = |file: &str, text: String| {
        fs::write(format!("/proc/self/{file}"), text).map_err(|error| failed("map a user's ID", error))
    };
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("0 {uid} 1"))?;
    write("gid_map", format!("0 {gid} 1"))?;
    if !why.is_empty() {
        eprintln!("ferry: warning: {why}: going on with a single ID");
    }
    Ok(())
}

/// A user's subordinate IDs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ranges {
    users: Vec<(u32, u32)>,
    groups: Vec<(u32, u32)>,
}

impl Ranges {
    fn of(uid: u32) -> Option<Self> {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let name = passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
            (number.parse() == Ok(uid)).then(|| name.to_owned())
        });
        let read = |path: &str| parse(&fs::read_to_string(path).unwrap_or_default(), name.as_deref(), uid);
        let (users, groups) = (read("/etc/subuid"), read("/etc/subgid"));
        (!users.is_empty() && !groups.is_empty()).then_some(Self { users, groups })
    }

    /// Has newuidmap and newgidmap map them in the namespace of a process.
    fn map(&self, pid: i32, uid: u32, gid: u32) -> Result<(), String> {
        for (tool, own, ranges) in [("newuidmap", uid, &self.users), ("newgidmap", gid, &self.groups)] {
            let mut words = vec![pid.to_string(), "0".to_owned(), own.to_string(), "1".to_owned()];
            let mut next = 1_u32;
            for (start, count) in ranges {
                words.extend([next, *start, *count].map(|number| number.to_string()));
                next = next.saturating_add(*count);
            }
            let missing = |error: std::io::Error| match error.kind() {
                std::io::ErrorKind::NotFound => {
                    format!(
                        "{tool} is missing (package uidmap or shadow-utils), without which subordinate IDs are of no use"
                    )
                }
                _ => format!("cannot run {tool}: {error}"),
            };
            let output = Command::new(tool).args(&words).output().map_err(missing)?;
            if !output.status.success() {
                return Err(format!("{tool} failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
            }
        }
        Ok(())
    }
}

/// The ranges of `/etc/subuid` that are a user's, by name or number.
fn parse(text: &str, name: Option<&str>, uid: u32) -> Vec<(u32, u32)> {
    let one = |line: &str| {
        let mut fields = line.trim().split(':');
        let (owner, start, count) = (fields.next()?, fields.next()?, fields.next()?);
        let is_own = Some(owner) == name || owner.parse() == Ok(uid);
        let range = (start.parse().ok()?, count.parse().ok().filter(|count| *count > 0)?);
        is_own.then_some(range)
    };
    text.lines().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_belong_to_a_name_or_a_number() {
        let text = "bob:100000:65536\n# c\nann:1:2\n1000:300000:10\nbob:x:1\nbob:5:0\n";
        assert_eq!(parse(text, Some("bob"), 1000), [(100_000, 65_536), (300_000, 10)]);
        assert_eq!(parse(text, None, 7), []);
    }

    #[test]
    fn the_root_is_found_before_the_rest_is_understood() {
        let of = |words: &[&str]| root_of(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(of(&["--root", "/a", "ps"]), Some("/a".into()));
        assert_eq!(of(&["ps", "--root=/b"]), Some("/b".into()));
        assert_eq!(of(&["ps"]), None);
    }
}
