//! Without root: the user namespace that an ordinary user's commands work in.
//!
//! With ranges in `/etc/subuid` and `/etc/subgid`, and `newuidmap` and `newgidmap` to put them to use, files keep their
//! owners, shifted into the ranges. Without them the user's own ID is root's in the namespace and the only one; owners
//! then live in the store's metadata. Which of the two a store was begun with is written down in it (`ferry/ids`), for
//! its files fit no other.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::process::Command;

use rustix::process::getpid;

use super::container::Containers;
use super::error::{RuntimeError, While};
use super::init::{read_error, tell_error};
use super::start::read_capped;
use crate::base::{AtPath, durable};
use crate::sys::process::{self as sys, Fork};

/// The largest passwd or subuid that is read, in bytes.
const FILE_BYTES: u64 = 8 << 20;
/// How many ranges one user may have; the kernel takes 340 lines.
const RANGES: usize = 300;

/// Whose IDs a store's files have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// The user's own, and nobody's else.
    Single,
    /// The user's ranges, too.
    Ranges,
}

/// What a command has to do with the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It reads and writes the store's files: where there is one ID, it could as well do without a namespace.
    Files,
    /// The same, and it starts programs that had better see the user as who they are.
    Programs,
    /// It mounts, and enters containers.
    Containers,
}

/// Enters the user namespace in which this process, an ordinary user's, works on the store: the one that the running
/// containers are in (`container`'s own, when one is named), or a new one, with a mount namespace in both cases. Gives
/// what the user should know. Called before there are threads.
pub fn enter(store_root: &Path, need: Need, container: Option<&str>) -> Result<Option<String>, RuntimeError> {
    let marker = store_root.join("ferry/ids");
    let recorded = recorded(&marker)?;
    let user = User::of_this_process()?;
    let (ids, notice) = match (recorded, user.ranges.is_empty(), user.missing_tool()) {
        (Some(Ids::Single), ..) => (Ids::Single, None),
        (Some(Ids::Ranges), true, _) => {
            return Err(RuntimeError::Unsupported(format!(
                "the store at {} has files of the ranges that {} had in /etc/subuid and /etc/subgid: restore them",
                store_root.display(),
                user.name
            )));
        }
        (Some(Ids::Ranges), false, Some(tool)) => {
            return Err(RuntimeError::Unsupported(format!(
                "{tool} is missing, which the store at {} was made with: install it (Debian: uidmap, Fedora: \
                 shadow-utils)",
                store_root.display()
            )));
        }
        (None, false, Some(tool)) => (
            Ids::Single,
            Some(format!(
                "{tool} is missing (Debian: uidmap, Fedora: shadow-utils): without it containers have one user ID, and \
                 this store will"
            )),
        ),
        (None, true, _) => (Ids::Single, None),
        (_, false, None) => (Ids::Ranges, None),
    };
    if ids == Ids::Single && need == Need::Programs {
        return Ok(notice);
    }
    let entered = match running(store_root, container) {
        Some(namespace) => sys::setns(&namespace, libc::CLONE_NEWUSER)
            .and_then(|()| sys::unshare(libc::CLONE_NEWNS))
            .trying("enter the containers' user namespace"),
        None => make(&user, ids),
    };
    match entered {
        Err(error) if ids == Ids::Ranges || need == Need::Containers => return Err(error),
        // The store's files are the user's own all the same.
        Err(_) => return Ok(notice),
        Ok(()) => {}
    }
    if recorded.is_none() && store_root.join("ferry").is_dir() {
        let word: &[u8] = if ids == Ids::Single { b"single\n" } else { b"ranges\n" };
        durable::write(&marker, word, 0o644)?;
    }
    Ok(notice)
}

fn recorded(marker: &Path) -> Result<Option<Ids>, RuntimeError> {
    match fs::read_to_string(marker) {
        Ok(text) if text == "single\n" => Ok(Some(Ids::Single)),
        Ok(text) if text == "ranges\n" => Ok(Some(Ids::Ranges)),
        Ok(_) => Err(RuntimeError::Malformed(format!("{} says neither \"single\" nor \"ranges\"", marker.display()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at("read", marker)?,
    }
}

/// The user namespace of the running containers.
fn running(store_root: &Path, container: Option<&str>) -> Option<File> {
    let containers = Containers::new(store_root);
    let named = container.and_then(|text| containers.find(text).ok());
    let others = containers.ids().unwrap_or_default().into_iter().map(|id| containers.dir(&id));
    let monitors = named.into_iter().chain(others).filter_map(|dir| dir.monitor());
    monitors.filter_map(|pid| File::open(format!("/proc/{pid}/ns/user")).ok()).next()
}

/// Some IDs of the host, in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    start: u32,
    count: u32,
}

/// Who this is, and what IDs they have beside their own: the same number of ranges for users and groups, or none.
#[derive(Debug)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
    ranges: Vec<Range>,
    group_ranges: Vec<Range>,
}

impl User {
    fn of_this_process() -> Result<Self, RuntimeError> {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let passwd = read("/etc/passwd")?;
        let name = passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        });
        let name = name.unwrap_or_else(|| uid.to_string());
        let ranges = self::ranges(&read("/etc/subuid")?, &name, uid);
        let group_ranges = self::ranges(&read("/etc/subgid")?, &name, uid);
        let both = !ranges.is_empty() && !group_ranges.is_empty();
        let none = Vec::new;
        let (ranges, group_ranges) = if both { (ranges, group_ranges) } else { (none(), none()) };
        Ok(Self { name, uid, gid, ranges, group_ranges })
    }

    /// The tool that would be needed for the ranges and is not there.
    fn missing_tool(&self) -> Option<&'static str> {
        let missing = |tool: &&str| {
            let tried = Command::new(tool).stderr(std::process::Stdio::null()).status();
            tried.is_err_and(|error| error.kind() == ErrorKind::NotFound)
        };
        if self.ranges.is_empty() { None } else { ["newuidmap", "newgidmap"].into_iter().find(missing) }
    }
}

/// A file of the host's; one that is not there is empty.
fn read(path: &str) -> Result<String, RuntimeError> {
    let path = Path::new(path);
    if !path.exists() {
        return Ok(String::new());
    }
    Ok(String::from_utf8_lossy(&read_capped(path, FILE_BYTES)?).into_owned())
}

/// A user's ranges in a text like `/etc/subuid` (subuid(5)): `name-or-uid:start:count` a line.
fn ranges(text: &str, name: &str, uid: u32) -> Vec<Range> {
    let number = uid.to_string();
    let mut found: Vec<Range> = Vec::new();
    for line in text.lines() {
        let mut fields = line.trim().split(':');
        let (Some(who), Some(start), Some(count), None) = (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if let (true, Ok(start), Ok(count)) = (who == name || who == number, start.parse::<u32>(), count.parse::<u32>())
            && count > 0
            && start.checked_add(count).is_some()
            && found.len() < RANGES
        {
            found.push(Range { start, count });
        }
    }
    found
}

/// What `newuidmap` is asked for: the user's own ID as root, and the ranges from 1 on.
fn mapping(own: u32, ranges: &[Range]) -> Vec<String> {
    let mut words = vec!["0".to_owned(), own.to_string(), "1".to_owned()];
    let mut inside = 1u32;
    for range in ranges {
        let count = range.count.min(u32::MAX - inside);
        words.extend([inside.to_string(), range.start.to_string(), count.to_string()]);
        inside += count;
    }
    words
}

/// Makes a user and a mount namespace and enters them.
fn make(user: &User, ids: Ids) -> Result<(), RuntimeError> {
    let namespaces = libc::CLONE_NEWUSER | libc::CLONE_NEWNS;
    let what = "make a user namespace (kernel.unprivileged_userns_clone, user.max_user_namespaces or \
                kernel.apparmor_restrict_unprivileged_userns may forbid it)";
    if ids == Ids::Single {
        sys::unshare(namespaces).trying(what)?;
        // Groups could be left to gain rights: the kernel takes one's own only where that is ruled out.
        for (file, text) in [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("0 {} 1", user.uid)),
            ("gid_map", format!("0 {} 1", user.gid)),
        ] {
            let path = format!("/proc/self/{file}");
            fs::write(&path, text).at("write", &path)?;
        }
        return Ok(());
    }
    // The tools work from outside: a child stays there and calls them.
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).trying("make a pipe");
    let ((wait, go), (report, tell)) = (pipe()?, pipe()?);
    let pid = getpid().as_raw_nonzero().to_string();
    let helper = match sys::fork().trying("start a helper")? {
        Fork::Parent(helper) => helper,
        Fork::Child => {
            drop((go, report));
            if rustix::io::read(&wait, &mut [0]).is_ok_and(|n| n == 1) {
                let mapped = run("newuidmap", &pid, &mapping(user.uid, &user.ranges))
                    .and_then(|()| run("newgidmap", &pid, &mapping(user.gid, &user.group_ranges)));
                if let Err(error) = mapped {
                    tell_error(tell, &error);
                }
            }
            sys::exit(0);
        }
    };
    drop((wait, tell));
    let unshared = sys::unshare(namespaces);
    if unshared.is_ok() {
        rustix::io::write(&go, b"g").trying("talk to a helper")?;
    }
    drop(go);
    let mapped = read_error(report);
    let _ = sys::wait(helper, true);
    unshared.trying(what)?;
    mapped
}

fn run(tool: &str, pid: &str, mapping: &[String]) -> Result<(), RuntimeError> {
    let output = Command::new(tool).arg(pid).args(mapping).output().trying(format!("run {tool}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().chars().take(500).collect::<String>();
    Err(RuntimeError::System { action: format!("map IDs with {tool}"), source: io::Error::other(said) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number_and_nonsense_is_passed_over() {
        let text = "alice:100000:65536\nbob:1:2\n1000:300000:10\nalice:x:1\nalice:1:0\nalice:4294967295:2\nalice:1:2:3\n\n:1:1";
        let found = ranges(text, "alice", 1000);
        assert_eq!(found, [Range { start: 100_000, count: 65_536 }, Range { start: 300_000, count: 10 }]);
        let words = mapping(1000, &found).join(" ");
        assert_eq!(words, "0 1000 1 1 100000 65536 65537 300000 10");
        assert!(ranges(text, "carol", 1001).is_empty());
    }
}
