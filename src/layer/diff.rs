//! The layer tar of what a container changed (the upper directory of its overlay mount), or the tar of all that an
//! overlay shows. The same tree gives the same bytes: entries are sorted, and nothing of the host is in them but what the files
//! have. What is written and what is left out is docker's choice: of the extended attributes `security.capability`
//! alone, no sockets.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use super::ahead::{self, Cut, FILES, PIECE, Pieces, Taker};
use super::error::LayerError;
use super::tar::{Entry, Kind, Time, write};
use super::union::{Marks, Place, Shown, Union, attribute};
use crate::base::{AtPath, BoxFault, Ctx, PathError};
use crate::sys::dir::{self, Dir, Metadata};

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tree {
    /// The upper directory of an overlay mount, the only layer that is given: its marks become whiteouts.
    Upper,
    /// What the layers show together: the marks hide.
    Merged,
}

/// How it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiffOptions {
    /// What is written.
    pub tree: Tree,
    /// The marks are `user.overlay.*`, as the mount had it.
    pub userxattr: bool,
    /// Later times become this one, in seconds since 1970 (`SOURCE_DATE_EPOCH`).
    pub latest: Option<i64>,
}

/// The one attribute that docker writes.
const CAPABILITY: &str = "security.capability";

/// How many entries are found ahead of those that are read; each may hold a directory open.
const AHEAD: usize = 128;

/// Writes the tar of `layers`, the top one of them first and at least one, to `out`. A file that gets shorter meanwhile is [`LayerError::Changed`]. One thread looks for
/// entries, others open and read files ahead of the one that is written: with small files each is as much work as that.
pub fn write(layers: &[Dir], out: &mut dyn Write, options: &DiffOptions, ctx: &Ctx) -> Result<(), BoxFault> {
    let Some(root) = layers.first() else { return Ok(()) };
    let (sender, found) = sync_channel(AHEAD);
    let (cutter, taker) = ahead::begin(Queue { found, next: None });
    let (written, walked) = std::thread::scope(|scope| {
        let walk = move || {
            let marks = Marks { userxattr: options.userxattr };
            let mut walker = Walker { root, marks, found: sender, options, ctx, links: HashMap::new(), sockets: 0 };
            walker.tree(&Union::new(layers, marks)).map(|()| walker.sockets)
        };
        let walker = scope.spawn(walk);
        for _ in 0..ahead::threads() {
            scope.spawn(|| cutter.work(|batch, pieces| fill(root, batch, pieces, ctx)));
        }
        // When this ends early nobody takes what is read, nor then what is found.
        let written = put(root, taker, out);
        (written, walker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    written?;
    let sockets = walked?;
    write::end(out).at("write the tar of", root.path())?;
    if sockets > 0 {
        ctx.warn(format!("{sockets} sockets are left out: a layer cannot hold them"));
    }
    Ok(())
}

/// An entry, and where what it holds is read.
struct Found {
    entry: Entry,
    file: Option<FoundFile>,
}

/// A regular file that is not the further name of one.
struct FoundFile {
    parent: Arc<Dir>,
    name: OsString,
    /// In bytes, as it was when it was found.
    size: u64,
}

impl FoundFile {
    /// The host's path, for messages.
    fn full(&self) -> PathBuf {
        self.parent.full(self.name.as_ref())
    }
}

/// What was found and not cut yet.
struct Queue {
    found: Receiver<Found>,
    next: Option<Found>,
}

impl Cut for Queue {
    type Items = Vec<Found>;

    fn next(&mut self) -> Result<Option<Vec<Found>>, BoxFault> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(found) = self.next.take().or_else(|| self.found.recv().ok()) {
            bytes += found.file.as_ref().map_or(0, |file| file.size);
            if !batch.is_empty() && (bytes > PIECE as u64 || batch.len() == FILES) {
                self.next = Some(found);
                break;
            }
            batch.push(found);
        }
        Ok(Some(batch).filter(|batch| !batch.is_empty()))
    }
}

/// Makes the bytes of the tar that stand for what was found.
fn fill(root: &Dir, batch: Vec<Found>, out: &mut Pieces<'_>, ctx: &Ctx) -> Result<(), BoxFault> {
    let mut header = Vec::new();
    for Found { mut entry, file } in batch {
        let opened = file.map(|found| open(&found, &mut entry).map(|file| (file, found))).transpose()?;
        header.clear();
        write::header(&mut header, &entry).at("write the tar of", root.path())?;
        out.raw(&header)?;
        let Some((file, found)) = opened else { continue };
        let full = || found.full();
        let mut left = usize::try_from(entry.stored).unwrap_or(usize::MAX);
        while left > 0 {
            ctx.check()?;
            out.room()?;
            let bytes = &mut out.filled.bytes;
            let from = bytes.len();
            let n = match rustix::io::read(&file, spare_capacity(bytes)) {
                Err(Errno::INTR) => continue,
                Ok(0) => return Err(LayerError::Changed(full()).into()),
                other => other.map_err(io::Error::from).at("read", full())?.min(left),
            };
            // It may have become longer.
            bytes.truncate(from + n);
            left -= n;
        }
        header.clear();
        write::pad(&mut header, entry.stored).at("write the tar of", root.path())?;
        out.raw(&header)?;
    }
    Ok(())
}

/// Opens a file, and completes what its entry says.
fn open(found: &FoundFile, entry: &mut Entry) -> Result<File, BoxFault> {
    let full = || found.full();
    let file = found.parent.open_file(&found.name)?;
    entry.stored = file.metadata().at("read", full())?.len();
    if let Some(mut value) = attribute(&file, CAPABILITY).at("read attributes of", full())? {
        // Revision 3 names the root of a namespace, which means nothing elsewhere: docker writes revision 2.
        if value.len() == 24 && value[3] == 3 {
            value[3] = 2;
            value.truncate(20);
        }
        entry.xattrs.push((CAPABILITY.as_bytes().to_vec(), value));
    }
    Ok(file)
}

/// Writes what was read.
fn put(root: &Dir, mut taker: Taker, out: &mut dyn Write) -> Result<(), BoxFault> {
    while let Some(filled) = taker.next()? {
        out.write_all(&filled.bytes).at("write the tar of", root.path())?;
        taker.give_back(filled.bytes);
    }
    Ok(())
}

struct Walker<'a> {
    root: &'a Dir,
    marks: Marks,
    found: SyncSender<Found>,
    options: &'a DiffOptions,
    ctx: &'a Ctx,
    /// The first name of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
    sockets: u64,
}

/// A directory that is being gone through.
struct Level {
    path: PathBuf,
    layers: Vec<usize>,
    rest: std::vec::IntoIter<Shown>,
}

impl Level {
    fn of(place: &Place) -> Result<Self, PathError> {
        Ok(Self { path: place.path.clone(), layers: place.layers(), rest: place.entries()?.into_iter() })
    }
}

impl Walker<'_> {
    fn tree(&mut self, union: &Union<'_>) -> Result<(), BoxFault> {
        let root = union.root()?;
        if self.options.tree == Tree::Upper && self.marks.is_opaque(root.first())? {
            self.marker(b".wh..wh..opq".to_vec(), 0o755)?;
        }
        let mut stack = vec![Level::of(&root)?];
        let mut open = Some(root);
        while let Some(level) = stack.last_mut() {
            self.ctx.check()?;
            let Some(shown) = level.rest.next() else {
                stack.pop();
                continue;
            };
            // Those of one directory are open however deep the tree is, and those of files that wait to be read.
            let place = match open.take().filter(|place| place.path == level.path) {
                Some(place) => place,
                None => union.open(&level.path, &level.layers)?,
            };
            if self.entry(&place, &shown)? {
                let inside = union.enter(&place, &shown)?;
                if self.options.tree == Tree::Upper && self.marks.is_opaque(inside.first())? {
                    let mode = inside.first().stat("")?.st_mode;
                    self.marker([inside.path.as_os_str().as_bytes(), b"/.wh..wh..opq"].concat(), mode & 0o777)?;
                }
                stack.push(Level::of(&inside)?);
                open = Some(inside);
            } else {
                open = Some(place);
            }
        }
        Ok(())
    }

    /// Finds one entry; says whether it is a directory, to go on in.
    fn entry(&mut self, place: &Place, shown: &Shown) -> Result<bool, BoxFault> {
        let (parent, name, path) = (place.parent(shown), Path::new(&shown.name), &place.path.join(&shown.name));
        let metadata = &parent.stat(name)?;
        let raw = path.as_os_str().as_bytes();
        if name.as_os_str().as_bytes().starts_with(b".wh.") {
            let shown = String::from_utf8_lossy(raw).into_owned();
            self.ctx.warn(format!("{shown:?} is left out: in a layer its name would hide another file"));
            return Ok(false);
        }
        let mut entry = self.describe(raw, metadata);
        match dir::Kind::in_metadata(metadata) {
            Some(dir::Kind::Directory) => {
                entry.kind = Kind::Directory;
                entry.path.push(b'/');
                self.give(entry, None)?;
                return Ok(true);
            }
            Some(dir::Kind::Regular) => {
                if metadata.st_size == 0 && self.is_marked_whiteout(parent, name)? {
                    return self.whiteout(raw).map(|()| false);
                }
                let linked = self.linked(metadata, &mut entry);
                let file = (!linked).then(|| FoundFile {
                    parent: Arc::clone(parent),
                    name: shown.name.clone(),
                    size: metadata.st_size as u64,
                });
                return self.give(entry, file).map(|()| false);
            }
            Some(dir::Kind::CharDevice) if metadata.st_rdev == 0 => return self.whiteout(raw).map(|()| false),
            Some(dir::Kind::Symlink) => {
                entry.kind = Kind::Symlink;
                entry.link = parent.read_link(name)?.into_os_string().as_bytes().to_vec();
            }
            Some(dir::Kind::Fifo) => entry.kind = Kind::Fifo,
            Some(kind @ (dir::Kind::CharDevice | dir::Kind::BlockDevice)) => {
                let character = kind == dir::Kind::CharDevice;
                entry.kind = if character { Kind::CharDevice } else { Kind::BlockDevice };
                entry.device = (rustix::fs::major(metadata.st_rdev), rustix::fs::minor(metadata.st_rdev));
            }
            Some(dir::Kind::Socket) | None => {
                self.sockets += 1;
                return Ok(false);
            }
        }
        self.linked(metadata, &mut entry);
        self.give(entry, None).map(|()| false)
    }

    fn describe(&self, path: &[u8], metadata: &Metadata) -> Entry {
        let mut mtime = Time { seconds: metadata.st_mtime, nanoseconds: metadata.st_mtime_nsec as u32 };
        if let Some(latest) = self.options.latest {
            mtime = mtime.min(Time { seconds: latest, nanoseconds: 0 });
        }
        Entry {
            kind: Kind::Regular,
            path: path.to_vec(),
            link: Vec::new(),
            mode: metadata.st_mode & 0o7777,
            uid: metadata.st_uid,
            gid: metadata.st_gid,
            mtime,
            device: (0, 0),
            xattrs: Vec::new(),
            stored: 0,
            sparse: None,
        }
    }

    /// Makes the entry a link when its file has been written under another name.
    fn linked(&mut self, metadata: &Metadata, entry: &mut Entry) -> bool {
        if metadata.st_nlink < 2 {
            return false;
        }
        match self.links.get(&(metadata.st_dev, metadata.st_ino)) {
            Some(first) => {
                entry.kind = Kind::HardLink;
                entry.link.clone_from(first);
                true
            }
            None => {
                self.links.insert((metadata.st_dev, metadata.st_ino), entry.path.clone());
                false
            }
        }
    }

    /// Hands an entry to whoever reads. The error of whoever takes no more is told by that one.
    fn give(&self, entry: Entry, file: Option<FoundFile>) -> Result<(), BoxFault> {
        let sent = self.found.send(Found { entry, file }).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe));
        Ok(sent.at("write the tar of", self.root.path())?)
    }

    /// An empty file whose name alone says something. It has the time 0: overlayfs keeps none for it.
    fn marker(&mut self, path: Vec<u8>, mode: u32) -> Result<(), BoxFault> {
        let entry = Entry {
            kind: Kind::Regular,
            path,
            link: Vec::new(),
            mode,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            device: (0, 0),
            xattrs: Vec::new(),
            stored: 0,
            sparse: None,
        };
        self.give(entry, None)
    }

    /// What hides a file of the layers below is an entry of its own in a layer, and none in what layers show.
    fn whiteout(&mut self, path: &[u8]) -> Result<(), BoxFault> {
        if self.options.tree == Tree::Merged {
            return Ok(());
        }
        let name = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        self.marker([&path[..name], b".wh.", &path[name..]].concat(), 0o600)
    }

    fn is_marked_whiteout(&self, parent: &Dir, name: &Path) -> Result<bool, PathError> {
        let file = parent.open_file(name)?;
        Ok(self.marks.value(&file, "whiteout").at("read attributes of", parent.full(name))?.is_some())
    }
}
