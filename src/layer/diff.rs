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
use super::churn::Churn;
use super::error::LayerError;
use super::owners::Owners;
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
#[derive(Debug, Clone, Copy)]
pub struct DiffOptions<'a> {
    /// What is written.
    pub tree: Tree,
    /// The marks are `user.overlay.*`, as the mount had it.
    pub userxattr: bool,
    /// Later times become this one, in seconds since 1970 (`SOURCE_DATE_EPOCH`).
    pub latest: Option<i64>,
    /// Whose the files of the layers below the top one are, where all have one owner on disk. What the top one has in the
    /// place of something of theirs keeps its owner; all else is root's.
    pub owners: Option<&'a Owners>,
}

/// The number of the layer in which a program may be at work.
const TOP: usize = 0;

/// Root's user and group.
const ROOT: (u32, u32) = (0, 0);

/// The one attribute that docker writes.
pub const CAPABILITY: &str = "security.capability";

/// How many batches are found ahead of those that are read; each of their entries may hold a directory open.
const AHEAD: usize = 2;

/// What fills up a file that has become shorter.
const ZEROS: [u8; 4096] = [0; 4096];

/// Writes the tar of `layers`, the top one of them first and at least one, to `out`. A program may be at work in the top
/// one meanwhile: what goes before it is written is left out, what becomes longer or shorter has the length that it had
/// when it was opened, and of all but the longer ones the user is warned; a file of a layer below that is not there is an
/// error. One thread looks for entries, others open and read files ahead of the one that is written: with small files each
/// is as much work as that.
pub fn write(layers: &[Dir], out: &mut dyn Write, options: &DiffOptions<'_>, ctx: &Ctx) -> Result<(), BoxFault> {
    let Some(root) = layers.first() else { return Ok(()) };
    let (sender, found) = sync_channel(AHEAD);
    let (cutter, taker) = ahead::begin(found);
    let churn = &Churn::new(ctx);
    let (written, walked) = std::thread::scope(|scope| {
        let walk = move || {
            let marks = Marks { userxattr: options.userxattr };
            let mut walker = Walker {
                root,
                marks,
                batch: Vec::new(),
                bytes: 0,
                found: sender,
                options,
                ctx,
                churn,
                anew: None,
                links: HashMap::new(),
                sockets: 0,
            };
            walker.tree(&Union::new(layers, marks)).map(|()| walker.sockets)
        };
        let walker = scope.spawn(walk);
        for _ in 0..ahead::threads() {
            scope.spawn(|| cutter.work(|batch, pieces| fill(root, batch, pieces, (ctx, churn))));
        }
        // When this ends early nobody takes what is read, nor then what is found.
        let written = put(root, taker, out);
        (written, walker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    written?;
    let sockets = walked?;
    write::end(out).at("write the tar of", root.path())?;
    churn.sum_up();
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
    at: At,
    /// In bytes, as it was when it was found.
    size: u64,
    /// Whether a program may be at work on it.
    churns: bool,
}

enum At {
    /// To be opened by its name there.
    In(Arc<Dir>, OsString),
    /// Open, because other names of it will be links to this one, which then must not have gone; and the host's path.
    Open(File, PathBuf),
}

impl Cut for Receiver<Vec<Found>> {
    type Items = Vec<Found>;

    fn next(&mut self) -> Result<Option<Vec<Found>>, BoxFault> {
        Ok(self.recv().ok())
    }
}

/// Makes the bytes of the tar that stand for what was found.
fn fill(root: &Dir, batch: Vec<Found>, out: &mut Pieces<'_>, (ctx, churn): (&Ctx, &Churn<'_>)) -> Result<(), BoxFault> {
    let mut header = Vec::new();
    for Found { mut entry, file } in batch {
        let opened = match file {
            None => None,
            Some(found) => {
                let churns = found.churns;
                match open(found, &mut entry) {
                    Err(error) if churns && error.is_gone() => {
                        churn.vanished(&entry.path);
                        continue;
                    }
                    opened => Some((opened?, churns)),
                }
            }
        };
        header.clear();
        write::header(&mut header, &entry).at("write the tar of", root.path())?;
        out.raw(&header)?;
        let Some(((file, full), churns)) = opened else { continue };
        let mut left = usize::try_from(entry.stored).unwrap_or(usize::MAX);
        while left > 0 {
            ctx.check()?;
            out.room()?;
            let bytes = &mut out.filled.bytes;
            let from = bytes.len();
            let n = match rustix::io::read(&file, spare_capacity(bytes)) {
                Err(Errno::INTR) => continue,
                Ok(0) if churns => {
                    churn.shrank(&entry.path, left as u64);
                    break;
                }
                Ok(0) => return Err(LayerError::Changed(full).into()),
                other => other.map_err(io::Error::from).at("read", &full)?.min(left),
            };
            // It may have become longer.
            bytes.truncate(from + n);
            left -= n;
        }
        while left > 0 {
            ctx.check()?;
            let n = left.min(ZEROS.len());
            out.raw(&ZEROS[..n])?;
            left -= n;
        }
        header.clear();
        write::pad(&mut header, entry.stored).at("write the tar of", root.path())?;
        out.raw(&header)?;
    }
    Ok(())
}

/// Opens a file, and completes what its entry says. Gives its path on the host, too.
fn open(found: FoundFile, entry: &mut Entry) -> Result<(File, PathBuf), PathError> {
    let (file, full) = match found.at {
        At::In(parent, name) if found.churns => (parent.open_file_of_others(&name)?, parent.full(name.as_ref())),
        At::In(parent, name) => (parent.open_file(&name)?, parent.full(name.as_ref())),
        At::Open(file, full) => (file, full),
    };
    entry.stored = file.metadata().at("read", &full)?.len();
    entry.xattrs = attributes(&file).at("read attributes of", &full)?;
    Ok((file, full))
}

/// The extended attributes of a file that a tar has of it.
pub fn attributes(file: &File) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let Some(mut value) = attribute(file, CAPABILITY)? else { return Ok(Vec::new()) };
    // Revision 3 names the root of a namespace, which means nothing elsewhere: docker writes revision 2.
    if value.len() == 24 && value[3] == 3 {
        value[3] = 2;
        value.truncate(20);
    }
    Ok(vec![(CAPABILITY.as_bytes().to_vec(), value)])
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
    /// What was found and not handed on yet, and the bytes that its files have.
    batch: Vec<Found>,
    bytes: u64,
    found: SyncSender<Vec<Found>>,
    options: &'a DiffOptions<'a>,
    ctx: &'a Ctx,
    churn: &'a Churn<'a>,
    /// A directory of the top layer that hides all of the same path below, as one that was made anew does: the last one
    /// that was gone into.
    anew: Option<PathBuf>,
    /// The first name of each file that has several.
    links: HashMap<(u64, u64), First>,
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

/// A file of several names, as it was written under the first.
struct First {
    path: Vec<u8>,
    owner: (u32, u32),
}

/// What an entry turned out to be.
enum Looked {
    /// Nothing that a layer can hold, or nothing for this one.
    Skipped,
    /// It hides a file of the layers below.
    Whiteout,
    /// Itself.
    Entry(Box<Found>),
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
                None => match union.open(&level.path, &level.layers) {
                    Err(error) if level.layers.first() == Some(&TOP) && error.is_gone() => {
                        self.churn.vanished(level.path.as_os_str().as_bytes());
                        stack.pop();
                        continue;
                    }
                    place => place?,
                },
            };
            let inside = match self.entry(&place, &shown)? {
                true => self.enter(union, &place, &shown)?,
                false => None,
            };
            open = Some(match inside {
                Some((inside, level)) => {
                    stack.push(level);
                    inside
                }
                None => place,
            });
        }
        self.hand_on()
    }

    /// Goes into a directory; `None` when it is there no more.
    fn enter(&mut self, union: &Union<'_>, place: &Place, shown: &Shown) -> Result<Option<(Place, Level)>, BoxFault> {
        let look = || {
            let inside = union.enter(place, shown)?;
            let asked = self.options.tree == Tree::Upper || self.options.owners.is_some();
            let opaque = match asked && place.layer(shown) == TOP && self.marks.is_opaque(inside.first())? {
                true => Some(inside.first().stat("")?.st_mode & 0o777),
                false => None,
            };
            let level = Level::of(&inside)?;
            Ok((inside, level, opaque))
        };
        match look() {
            Ok((inside, level, opaque)) => {
                if let Some(mode) = opaque {
                    if self.options.tree == Tree::Upper {
                        self.marker([inside.path.as_os_str().as_bytes(), b"/.wh..wh..opq"].concat(), mode)?;
                    }
                    if !self.is_anew(&inside.path) {
                        self.anew = Some(inside.path.clone());
                    }
                }
                Ok(Some((inside, level)))
            }
            Err(error) => self.gone(place, shown, error).map(|()| None),
        }
    }

    /// Finds one entry; says whether it is a directory, to go on in.
    fn entry(&mut self, place: &Place, shown: &Shown) -> Result<bool, BoxFault> {
        let path = place.path.join(&shown.name);
        match self.look(place, shown, path.as_os_str().as_bytes()) {
            Ok(Looked::Skipped) => Ok(false),
            Ok(Looked::Whiteout) => self.whiteout(path.as_os_str().as_bytes()).map(|()| false),
            Ok(Looked::Entry(found)) => {
                let Found { entry, file } = *found;
                let directory = entry.kind == Kind::Directory;
                self.give(entry, file).map(|()| directory)
            }
            Err(error) => self.gone(place, shown, error).map(|()| false),
        }
    }

    /// An entry that was listed is there no more, or something is wrong with it.
    fn gone(&self, place: &Place, shown: &Shown, error: PathError) -> Result<(), BoxFault> {
        if place.layer(shown) != TOP || !error.is_gone() {
            return Err(error.into());
        }
        self.churn.vanished(place.path.join(&shown.name).as_os_str().as_bytes());
        Ok(())
    }

    fn look(&mut self, place: &Place, shown: &Shown, raw: &[u8]) -> Result<Looked, PathError> {
        let (parent, name) = (place.parent(shown), Path::new(&shown.name));
        let metadata = &parent.stat(name)?;
        if name.as_os_str().as_bytes().starts_with(b".wh.") {
            let shown = String::from_utf8_lossy(raw).into_owned();
            self.ctx.warn(format!("{shown:?} is left out: in a layer its name would hide another file"));
            return Ok(Looked::Skipped);
        }
        let mut entry = self.describe(raw, metadata);
        (entry.uid, entry.gid) = self.owner(place, shown, raw, metadata)?;
        match dir::Kind::in_metadata(metadata) {
            Some(dir::Kind::Directory) => {
                entry.kind = Kind::Directory;
                entry.path.push(b'/');
                return Ok(Looked::Entry(Box::new(Found { entry, file: None })));
            }
            Some(dir::Kind::Regular) => {
                if metadata.st_size == 0 && self.is_marked_whiteout(parent, name)? {
                    return Ok(Looked::Whiteout);
                }
                if self.link(metadata, &mut entry) {
                    return Ok(Looked::Entry(Box::new(Found { entry, file: None })));
                }
                let churns = place.layer(shown) == TOP;
                let at = match churns && metadata.st_nlink > 1 {
                    true => At::Open(parent.open_file_of_others(name)?, parent.full(name)),
                    false => At::In(Arc::clone(parent), shown.name.clone()),
                };
                self.remember(metadata, &entry);
                let file = FoundFile { at, size: metadata.st_size as u64, churns };
                return Ok(Looked::Entry(Box::new(Found { entry, file: Some(file) })));
            }
            Some(dir::Kind::CharDevice) if metadata.st_rdev == 0 => return Ok(Looked::Whiteout),
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
                return Ok(Looked::Skipped);
            }
        }
        if !self.link(metadata, &mut entry) {
            self.remember(metadata, &entry);
        }
        Ok(Looked::Entry(Box::new(Found { entry, file: None })))
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

    /// Whose an entry is.
    fn owner(&self, place: &Place, shown: &Shown, raw: &[u8], metadata: &Metadata) -> Result<(u32, u32), PathError> {
        let Some(owners) = self.options.owners else { return Ok((metadata.st_uid, metadata.st_gid)) };
        let kind = match dir::Kind::in_metadata(metadata) {
            Some(dir::Kind::Directory) => Kind::Directory,
            Some(dir::Kind::Symlink) => Kind::Symlink,
            Some(dir::Kind::Fifo) => Kind::Fifo,
            _ => Kind::Regular,
        };
        let owner = owners.of(raw, kind);
        let own = place.layer(shown) == TOP && owner != ROOT;
        let hides = || self.marks.is_opaque(&place.parent(shown).open_dir_no_links(&shown.name)?);
        let anew = own && (self.is_anew(&place.path) || kind == Kind::Directory && hides()?);
        Ok(if anew { ROOT } else { owner })
    }

    /// Whether nothing that is in this directory of the top layer's takes the place of something below.
    fn is_anew(&self, path: &Path) -> bool {
        self.anew.as_ref().is_some_and(|anew| path.starts_with(anew))
    }

    /// Makes the entry a link when its file has been written under another name.
    fn link(&self, metadata: &Metadata, entry: &mut Entry) -> bool {
        let first = self.links.get(&(metadata.st_dev, metadata.st_ino)).filter(|_| metadata.st_nlink > 1);
        let Some(first) = first else { return false };
        entry.kind = Kind::HardLink;
        entry.link.clone_from(&first.path);
        (entry.uid, entry.gid) = first.owner;
        true
    }

    /// Notes the name by which a file of several is written.
    fn remember(&mut self, metadata: &Metadata, entry: &Entry) {
        if metadata.st_nlink > 1 {
            let first = First { path: entry.path.clone(), owner: (entry.uid, entry.gid) };
            self.links.insert((metadata.st_dev, metadata.st_ino), first);
        }
    }

    /// Has an entry read, with others: to wake whoever reads for each is as much work as reading it.
    fn give(&mut self, entry: Entry, file: Option<FoundFile>) -> Result<(), BoxFault> {
        let bytes = file.as_ref().map_or(0, |file| file.size);
        if self.batch.len() == FILES || self.bytes.saturating_add(bytes) > PIECE as u64 {
            self.hand_on()?;
        }
        self.bytes += bytes;
        self.batch.push(Found { entry, file });
        Ok(())
    }

    /// Hands what was found to whoever reads. The error of whoever takes no more is told by that one.
    fn hand_on(&mut self) -> Result<(), BoxFault> {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        let sent = self.found.send(batch).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe));
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
        let file = parent.open_file_of_others(name)?;
        Ok(self.marks.value(&file, "whiteout").at("read attributes of", parent.full(name))?.is_some())
    }
}
