//! Who a container's program runs as: names are looked up in the image's own files, read through its root and capped.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, OFlags, fstat};

use super::error::RuntimeError;
use crate::sys::mount::open_in_root;

/// How much of `/etc/passwd` and `/etc/group` is read, in bytes.
const FILE_BYTES: u64 = 8 << 20;

/// A resolved user.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// Its ID.
    pub uid: u32,
    /// Its main group.
    pub gid: u32,
    /// Further groups, the main one among them.
    pub groups: Vec<u32>,
    /// Its home directory, where the image knows it.
    pub home: Option<String>,
}

/// Resolves `user[:group]` (names or numbers, empty for root) and further groups in the file system at `root`.
pub fn resolve(root: &OwnedFd, spec: &str, further: &[String]) -> Result<User, RuntimeError> {
    let (name, group) = match spec.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (spec, None),
    };
    from_files(&read(root, "etc/passwd")?, &read(root, "etc/group")?, name, group, further)
}

/// A file's lines; none if there is no such regular file.
fn read(root: impl AsFd, path: &str) -> Result<Vec<String>, RuntimeError> {
    // O_NONBLOCK: a fifo in the image must not hold ferry.
    let file = match open_in_root(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        Ok(file) => file,
        Err(_) => return Ok(Vec::new()),
    };
    let regular = fstat(&file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    if !regular {
        return Ok(Vec::new());
    }
    let mut bytes = Vec::new();
    let read = File::from(file).take(FILE_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|source: io::Error| RuntimeError::System { action: format!("read the container's /{path}"), source })?;
    if bytes.len() as u64 > FILE_BYTES {
        return Err(RuntimeError::Malformed(format!(
            "the container's /{path} is over the limit of {FILE_BYTES} bytes"
        )));
    }
    Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
}

fn from_files(
    passwd: &[String],
    groups: &[String],
    name: &str,
    group: Option<&str>,
    further: &[String],
) -> Result<User, RuntimeError> {
    let name = if name.is_empty() { "0" } else { name };
    let number = |text: &str, what: &str| -> Result<u32, RuntimeError> {
        // IDs from 2^31 on are refused, as docker does: to the kernel some of them mean "none".
        let found = text.parse::<u32>().ok().filter(|n| i32::try_from(*n).is_ok());
        found.ok_or_else(|| RuntimeError::NotFound(format!("unable to find {what} {text}: no matching entries")))
    };
    let fields = |line: &String| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let get = |entry: &[String], at: usize| entry.get(at).cloned().unwrap_or_default();
    let entry = passwd.iter().map(fields).find(|entry| entry.len() >= 4 && get(entry, 0) == name).or_else(|| {
        let uid = name.parse::<u32>().ok()?;
        passwd.iter().map(fields).find(|entry| entry.len() >= 4 && get(entry, 2).parse() == Ok(uid))
    });
    let mut user = User::default();
    let mut login = String::new();
    match &entry {
        Some(entry) => {
            user.uid = number(&get(entry, 2), "user")?;
            user.gid = number(&get(entry, 3), "group")?;
            user.home = entry.get(5).filter(|home| !home.is_empty()).cloned();
            login = get(entry, 0);
        }
        None => user.uid = number(name, "user")?,
    }
    let group_id = |wanted: &str| -> Result<u32, RuntimeError> {
        let by_name = groups.iter().map(fields).find(|entry| entry.len() >= 3 && get(entry, 0) == wanted);
        match by_name {
            Some(entry) => number(&get(&entry, 2), "group"),
            None => number(wanted, "group"),
        }
    };
    match group {
        Some(group) => user.gid = group_id(group)?,
        None if !login.is_empty() => {
            for entry in groups.iter().map(fields) {
                if get(&entry, 3).split(',').any(|member| member == login)
                    && let Ok(gid) = number(&get(&entry, 2), "group")
                {
                    user.groups.push(gid);
                }
            }
        }
        None => {}
    }
    for group in further {
        user.groups.push(group_id(group)?);
    }
    user.groups.push(user.gid);
    user.groups.sort_unstable();
    user.groups.dedup();
    user.groups.truncate(65_536);
    Ok(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_as_docker_finds_them() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let passwd = lines("root:x:0:0:root:/root:/bin/sh\nbob:x:1000:100:Bob:/home/bob:/bin/sh\nbad\n7:x:8:9::/:/x");
        let group = lines("root:x:0:\nwheel:x:10:root,bob\nusers:x:100:\nvideo:x:44:bob");
        let user = |uid, gid, groups: &[u32], home: Option<&str>| {
            Some(User { uid, gid, groups: groups.to_vec(), home: home.map(str::to_owned) })
        };
        let cases = [
            ("", None, user(0, 0, &[0, 10], Some("/root"))),
            ("bob", None, user(1000, 100, &[10, 44, 100], Some("/home/bob"))),
            ("1000", None, user(1000, 100, &[10, 44, 100], Some("/home/bob"))),
            ("bob", Some("wheel"), user(1000, 10, &[10], Some("/home/bob"))),
            ("4711", None, user(4711, 0, &[0], None)),
            ("4711", Some("12"), user(4711, 12, &[12], None)),
            ("7", None, user(8, 9, &[9], Some("/"))),
            ("nobody", None, None),
            ("bob", Some("nothing"), None),
            ("4294967295", None, None),
        ];
        for (name, with, expected) in cases {
            assert_eq!(from_files(&passwd, &group, name, with, &[]).ok(), expected, "{name}:{with:?}");
        }
        assert_eq!(from_files(&passwd, &group, "bob", Some("0"), &["video".into()]).unwrap().groups, [0, 44]);
    }
}
