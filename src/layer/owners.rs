//! Whose an image's files are, where the disk cannot say: with a single user ID owners live in the layers' tar-splits
//! alone.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;

use super::apply::names::{self, Meaning};
use super::tar::{self, Entry, Handler, Kind};
use super::tar_split::{Piece, Reader};
use crate::base::BoxFault;
use crate::base::caps::OverLimit;
use crate::base::read::Ready;

/// The most that the names of files that are not root's may have together, in bytes.
const NAMES: usize = 256 << 20;

/// Whose the files are that some layers show together.
#[derive(Debug, Default)]
pub struct Owners {
    /// Those that are not root's.
    others: BTreeMap<Vec<u8>, Owned>,
}

#[derive(Debug, Clone, Copy)]
struct Owned {
    owner: (u32, u32),
    kind: Kind,
}

impl Owners {
    /// Puts one more layer on those before. A tar-split is read without the contents it leaves to files; what is wrong with
    /// it is an error.
    pub fn add(&mut self, tar_split: impl Read) -> Result<(), BoxFault> {
        let mut layer = Layer { below: &mut self.others, own: BTreeMap::new(), seen: HashSet::new(), bytes: 0 };
        let mut hollow = Hollow { pieces: Reader::new(tar_split), ready: Ready::default() };
        tar::scan(&mut hollow, &mut layer)?;
        let own = layer.own;
        self.others.extend(own);
        Ok(())
    }

    /// User and group of what is at a path: root's, unless something of that kind has another owner in a layer.
    pub fn of(&self, path: &[u8], kind: Kind) -> (u32, u32) {
        // Devices are no devices on disk.
        let fits = |owned: &&Owned| owned.kind == kind || matches!(owned.kind, Kind::CharDevice | Kind::BlockDevice);
        self.others.get(path).filter(fits).map_or((0, 0), |owned| owned.owner)
    }
}

struct Layer<'a> {
    below: &'a mut BTreeMap<Vec<u8>, Owned>,
    /// What this layer says: a whiteout in it means the layers below, wherever it stands.
    own: BTreeMap<Vec<u8>, Owned>,
    /// Directories that it has, with or without an entry.
    seen: HashSet<u128>,
    bytes: usize,
}

impl Layer<'_> {
    fn set(&mut self, path: Vec<u8>, owned: Owned) -> Result<(), BoxFault> {
        self.below.remove(&path);
        if owned.kind != Kind::Directory {
            hide(self.below, &path);
        }
        if owned.owner == (0, 0) {
            self.own.remove(&path);
            return Ok(());
        }
        self.bytes += path.len();
        if self.bytes > NAMES {
            let what = "the names of a layer's files that are not root's".to_owned();
            return Err(OverLimit { what, limit: NAMES as u64, unit: "bytes" }.into());
        }
        self.own.insert(path, owned);
        Ok(())
    }

    /// Directories without an entry are root's, as whoever unpacks a layer makes them.
    fn pass_through(&mut self, mut dir: &[u8]) {
        while !dir.is_empty() && self.seen.insert(names::key(dir)) {
            self.below.remove(dir);
            dir = names::split(dir).0;
        }
    }
}

/// Forgets what is below a path.
fn hide(owners: &mut BTreeMap<Vec<u8>, Owned>, path: &[u8]) {
    let prefix = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
    let below: Vec<Vec<u8>> = owners
        .range(prefix.clone()..)
        .map(|(path, _)| path)
        .take_while(|path| path.starts_with(&prefix))
        .cloned()
        .collect();
    for path in below {
        owners.remove(&path);
    }
}

impl Handler for Layer<'_> {
    fn raw(&mut self, _: &[u8]) -> Result<(), BoxFault> {
        Ok(())
    }

    fn entry(&mut self, entry: Entry, _: u64) -> Result<(), BoxFault> {
        let path = names::clean(&entry.path)?;
        if path.is_empty() || matches!(entry.kind, Kind::Global | Kind::Other(_)) {
            return Ok(());
        }
        let (parent, name) = names::split(&path);
        self.pass_through(parent);
        let owner = (entry.uid, entry.gid);
        match names::meaning(name) {
            Meaning::Nothing => Ok(()),
            Meaning::Opaque => {
                hide(self.below, parent);
                Ok(())
            }
            Meaning::Whiteout(hidden) => {
                let hidden = if parent.is_empty() {
                    hidden.as_bytes().to_vec()
                } else {
                    [parent, b"/", hidden.as_bytes()].concat()
                };
                self.below.remove(&hidden);
                hide(self.below, &hidden);
                Ok(())
            }
            // One file under two names: the last entry's owner is that of both.
            Meaning::File if entry.kind == Kind::HardLink => {
                let target = names::clean(&entry.link)?;
                let kind = self.own.get(&target).map_or(Kind::Regular, |owned| owned.kind);
                self.set(target, Owned { owner, kind })?;
                self.set(path, Owned { owner, kind })
            }
            Meaning::File => {
                if entry.kind == Kind::Directory {
                    self.seen.insert(names::key(&path));
                }
                self.set(path, Owned { owner, kind: entry.kind })
            }
        }
    }

    fn data(&mut self, _: &[u8]) -> Result<(), BoxFault> {
        Ok(())
    }

    fn end(&mut self) -> Result<(), BoxFault> {
        Ok(())
    }
}

/// A layer's tar with zeros where files are.
struct Hollow<R: Read> {
    pieces: Reader<R>,
    ready: Ready,
}

impl<R: Read> Read for Hollow<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let n = self.ready.read(buf);
            if n > 0 || buf.is_empty() {
                return Ok(n);
            }
            self.ready.clear();
            match self.pieces.next_piece()? {
                None => return Ok(0),
                Some(Piece::Segment(bytes)) => self.ready.bytes = bytes,
                Some(Piece::File { size, .. }) => self.ready.zeros = size,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tar::{Time, write};
    use super::super::tar_split::Writer;
    use super::*;

    /// Entries: path, kind, link, user.
    type Line = (&'static str, Kind, &'static str, u32);

    fn split(lines: &[Line]) -> Vec<u8> {
        let mut out = Writer::new(Vec::new());
        for (path, kind, link, uid) in lines {
            let stored = if *kind == Kind::Regular { 3 } else { 0 };
            let entry = Entry {
                kind: *kind,
                path: path.as_bytes().to_vec(),
                link: link.as_bytes().to_vec(),
                mode: 0o644,
                uid: *uid,
                gid: uid * 2,
                mtime: Time::default(),
                device: (0, 0),
                xattrs: Vec::new(),
                stored,
                sparse: None,
            };
            let mut header = Vec::new();
            write::header(&mut header, &entry).unwrap();
            out.segment(&header).unwrap();
            out.file(path.as_bytes(), stored, None).unwrap();
            let mut padding = Vec::new();
            write::pad(&mut padding, stored).unwrap();
            out.segment(&padding).unwrap();
        }
        out.segment(&[0; 1024]).unwrap();
        out.finish().unwrap()
    }

    #[test]
    fn the_topmost_layer_says_whose_a_file_is_and_what_hides_a_file_its_owner_too() {
        const D: Kind = Kind::Directory;
        const F: Kind = Kind::Regular;
        let base: &[Line] = &[
            ("d/", D, "", 1),
            ("d/one", F, "", 2),
            ("d/two", F, "", 3),
            ("e/", D, "", 4),
            ("e/in", F, "", 5),
            ("f", F, "", 6),
            ("g/", D, "", 7),
            ("g/in", F, "", 8),
            ("h", F, "", 9),
            ("i-not-in-i", F, "", 9),
            ("i/", D, "", 10),
            ("i/in", F, "", 11),
        ];
        let top: &[Line] = &[
            // Without an entry for the directory, which is root's then.
            ("./d/one", F, "", 0),
            ("e/new", F, "", 12),
            ("e/.wh..wh..opq", F, "", 0),
            ("e/", D, "", 13),
            (".wh.f", F, "", 0),
            ("g", F, "", 14),
            ("h", F, "", 15),
            ("l", Kind::HardLink, "h", 16),
            (".wh.i", F, "", 0),
        ];
        let mut owners = Owners::default();
        owners.add(split(base).as_slice()).unwrap();
        for (path, kind, _, uid) in base {
            assert_eq!(owners.of(path.trim_end_matches('/').as_bytes(), *kind), (*uid, uid * 2), "{path}");
        }
        assert_eq!(owners.of(b"d", F), (0, 0), "something else");
        owners.add(split(top).as_slice()).unwrap();
        for (path, kind, uid) in [
            ("d", D, 0),
            ("d/one", F, 0),
            ("d/two", F, 3),
            ("e", D, 13),
            ("e/in", F, 0),
            ("e/new", F, 12),
            ("f", F, 0),
            ("g", F, 14),
            ("g/in", F, 0),
            ("h", F, 16),
            ("l", F, 16),
            ("i", D, 0),
            ("i/in", F, 0),
            ("i-not-in-i", F, 9),
        ] {
            assert_eq!(owners.of(path.as_bytes(), kind), (uid, uid * 2), "{path}");
        }
        let bytes = split(top);
        for cut in 0..bytes.len() {
            let _ = Owners::default().add(&bytes[..cut]);
        }
    }
}
