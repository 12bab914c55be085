//! The table of an archive's entries, and how the paths in its documents are looked up in it: inside the archive, by
//! way of its own links, never in the file system.

use std::collections::HashMap;

use super::error::ArchiveError;
use super::tar::{Kind, Member};
use crate::base::caps;

/// How many links are followed for one path. Docker and podman write one; more than a few is an attack or a mistake.
pub const HOPS: usize = 5;

/// How many bytes from the begin of each file are kept, enough to tell compressions apart.
pub const HEAD: usize = 8;

/// A file in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its own path, links resolved.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// Where it begins in the tar.
    pub offset: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    File {
        size: u64,
        offset: u64,
    },
    /// A normalised path.
    Link(String),
    /// A link that cannot be followed, and why.
    Broken(&'static str),
    Other,
}

/// An archive's entries by path.
#[derive(Debug, Default)]
pub struct Entries(HashMap<String, Node>);

impl Entries {
    /// Takes the next entry of the archive; a later one of the same path replaces an earlier, as unpacking would.
    pub fn add(&mut self, member: &Member, origin: &str) -> Result<(), ArchiveError> {
        // Documents are UTF-8, so no other name can be referred to.
        let Ok(name) = std::str::from_utf8(&member.name) else { return Ok(()) };
        let refuse = |reason| ArchiveError::Entry { origin: origin.into(), entry: shorten(name), reason };
        let path = normalise("", name).ok_or_else(|| refuse("leads out of the archive"))?;
        let node = match &member.kind {
            Kind::Directory => return Ok(()),
            Kind::File => Node::File { size: member.size, offset: member.offset },
            Kind::Other => Node::Other,
            Kind::Symlink(target) | Kind::HardLink(target) => {
                let base = if matches!(member.kind, Kind::Symlink(_)) { parent(&path) } else { "" };
                let target = std::str::from_utf8(target).ok().and_then(|target| normalise(base, target));
                match target {
                    // An error only for those who want to follow it.
                    None => Node::Broken("is a link that leads out of the archive"),
                    Some(target) if target == path => Node::Broken("is a link to itself"),
                    Some(target) => Node::Link(target),
                }
            }
        };
        if path.is_empty() {
            return Ok(());
        }
        self.0.insert(path, node);
        Ok(())
    }

    /// Finds the file that `path` means; `None` when there is none.
    pub fn find(&self, path: &str, origin: &str) -> Result<Option<Entry>, ArchiveError> {
        let refuse = |reason| ArchiveError::Entry { origin: origin.into(), entry: shorten(path), reason };
        let mut at = normalise("", path).ok_or_else(|| refuse("leads out of the archive"))?;
        for _ in 0..=HOPS {
            match self.0.get(&at) {
                Some(Node::File { size, offset }) => {
                    return Ok(Some(Entry { path: at, size: *size, offset: *offset }));
                }
                Some(Node::Other) => return Err(refuse("is neither a plain file nor a link")),
                Some(Node::Broken(reason)) => return Err(refuse(reason)),
                Some(Node::Link(target)) => at = target.clone(),
                None => match self.through_directory_link(&at) {
                    Some(target) => at = target,
                    None => return Ok(None),
                },
            }
        }
        Err(refuse("goes through too many links"))
    }

    /// Replaces the longest leading part of `path` that is a link by what it points to.
    fn through_directory_link(&self, path: &str) -> Option<String> {
        let mut slash = path.rfind('/')?;
        loop {
            if let Some(Node::Link(target)) = self.0.get(&path[..slash]) {
                let longer = format!("{target}{}", &path[slash..]);
                return (longer.len() <= caps::PATH_BYTES).then(|| longer.trim_start_matches('/').to_owned());
            }
            slash = path[..slash].rfind('/')?;
        }
    }

    /// The paths at the top, for messages about what an archive is instead.
    pub fn top(&self) -> Vec<&str> {
        let mut top: Vec<&str> = self.0.keys().filter_map(|path| path.split('/').next()).collect();
        top.sort_unstable();
        top.dedup();
        top
    }
}

/// `path` seen from the directory `base`, without `.`, `..` and double slashes; an absolute one begins at the archive's
/// root. `None` when it leads out of the archive.
pub fn normalise(base: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> =
        if path.starts_with('/') { vec![] } else { base.split('/').filter(|part| !part.is_empty()).collect() };
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The directory that a normalised path lies in.
pub fn parent(path: &str) -> &str {
    path.rfind('/').map_or("", |slash| &path[..slash])
}

/// A name for a message: of bounded length.
pub fn shorten(name: &str) -> String {
    match name.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, kind: Kind) -> Member {
        Member { name: name.into(), kind, size: 7, offset: 512 }
    }

    #[test]
    fn links_are_followed_inside_the_archive_only_and_not_for_ever() {
        let mut entries = Entries::default();
        let mut add = |name: &str, kind| entries.add(&member(name, kind), "x.tar");
        add("./a/layer.tar", Kind::File).unwrap();
        add("b/layer.tar", Kind::Symlink(b"../a/layer.tar".to_vec())).unwrap();
        add("c/layer.tar", Kind::HardLink(b"b/layer.tar".to_vec())).unwrap();
        add("d", Kind::Symlink(b"a".to_vec())).unwrap();
        add("x/1", Kind::Symlink(b"2".to_vec())).unwrap();
        add("x/2", Kind::Symlink(b"1".to_vec())).unwrap();
        add("self", Kind::Symlink(b"self".to_vec())).unwrap();
        add("absolute", Kind::Symlink(b"/a/layer.tar".to_vec())).unwrap();
        add("fifo", Kind::Other).unwrap();
        add("out", Kind::Symlink(b"../../etc/passwd".to_vec())).unwrap();
        for bad in ["../a", "a/../../b"] {
            assert!(add(bad, Kind::File).is_err(), "{bad}");
        }
        for good in ["a/layer.tar", "b/layer.tar", "c/layer.tar", "d/layer.tar", "absolute", "/a//./layer.tar"] {
            assert_eq!(entries.find(good, "x.tar").unwrap().unwrap().path, "a/layer.tar", "{good}");
        }
        assert_eq!(entries.find("nothing/here", "x.tar").unwrap(), None);
        for bad in ["x/1", "self", "fifo", "out", "../../etc/passwd"] {
            assert!(entries.find(bad, "x.tar").is_err(), "{bad}");
        }
    }
}
