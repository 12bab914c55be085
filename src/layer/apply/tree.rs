//! The tree that a layer makes: where each entry goes, what it replaces, and everything that is not a regular file.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::error::{LayerError, shown};
use super::super::tar::{Entry, Kind, SparseMap};
use super::attributes::Attributes;
use super::displace::Displaced;
use super::names::{self, Meaning};
use super::writers::Writers;
use super::{ApplyOptions, Target};
use crate::base::{AtPath, BoxFault, PathError};
use crate::sys::dir::{self, Dir, Time};

/// Directories that are kept open: archives go through a tree depth first, so the last few are the ones needed.
const OPEN_DIRECTORIES: usize = 48;

/// Where an entry's file goes.
pub(super) struct Place {
    pub dir: Arc<Dir>,
    pub name: OsString,
    /// Its name leads through a symbolic link: dockerd would not find it by that.
    pub indirect: bool,
}

/// What the tar-split says of a path.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    /// The number among its file entries.
    pub ordinal: u32,
    /// Whether the entry leaves its content to the file.
    pub content: bool,
}

/// An open directory.
#[derive(Clone)]
struct Parent {
    dir: Arc<Dir>,
    indirect: bool,
}

/// A directory's mode and times are set last: making files in it changes its time, and its mode may forbid them.
struct Pending {
    path: PathBuf,
    mode: Option<u32>,
    mtime: Option<Time>,
}

/// The tree being made.
pub(super) struct Tree<'a> {
    pub(super) target: &'a Target,
    options: &'a ApplyOptions,
    pub(super) writers: &'a Writers,
    open: Vec<(Vec<u8>, Parent)>,
    /// The last entry of each path in the tar-split.
    pub(super) slots: HashMap<u128, Slot>,
    /// The key of the current entry.
    key: u128,
    /// There may be files of names that no entry had: whiteouts, directories taken for granted, files behind links.
    unseen: bool,
    pub(super) displaced: Displaced,
    pending: Vec<Pending>,
    own: (u32, u32),
    set_gid_seen: bool,
    pub(super) size: u64,
    /// The tree's path as the kernel names it, once it was needed.
    pub(super) real_root: Option<PathBuf>,
}

impl<'a> Tree<'a> {
    pub fn new(target: &'a Target, options: &'a ApplyOptions, writers: &'a Writers) -> Result<Self, BoxFault> {
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Ok(Self {
            target,
            options,
            writers,
            open: Vec::new(),
            slots: HashMap::new(),
            key: 0,
            unseen: false,
            displaced: Displaced::new(),
            pending: Vec::new(),
            own,
            set_gid_seen: false,
            size: 0,
            real_root: None,
        })
    }

    /// The attributes of an entry.
    pub fn attributes(&self, entry: &mut Entry) -> Attributes {
        Attributes::of(entry, self.options, self.own, self.set_gid_seen)
    }

    /// Makes what the entry stands for, or says where its regular file goes.
    pub fn place(&mut self, raw: &[u8], entry: &mut Entry) -> Result<Option<Place>, BoxFault> {
        let clean = names::clean(raw)?;
        self.key = names::key(&clean);
        let seen = self.slots.get(&self.key).copied();
        if let Some(before) = seen {
            // Go's reader of tar-splits refuses a name that occurs twice: the earlier one goes in as raw bytes alone.
            self.displaced.entry(before.ordinal).or_insert(None);
            // And its file may still be under way to the disk.
            self.writers.settle()?;
        }
        if clean.is_empty() {
            // The root itself: docker makes it and gives it no attributes.
            return if entry.kind == Kind::Regular && entry.stored > 0 {
                Err(LayerError::Name { path: shown(raw), reason: "it is the layer's root" }.into())
            } else {
                Ok(None)
            };
        }
        let (parent_path, name) = names::split(&clean);
        let parent = self.parent(parent_path, raw)?;
        match names::meaning(name) {
            Meaning::File => {}
            Meaning::Nothing => return Ok(None),
            Meaning::Opaque => {
                self.make_opaque(parent_path)?;
                return Ok(None);
            }
            Meaning::Whiteout(hidden) => {
                self.make_whiteout(&parent, hidden, raw)?;
                return Ok(None);
            }
        }
        match entry.kind {
            Kind::Regular => {
                self.clear(&parent, name, seen.is_some())?;
                self.unseen |= parent.indirect;
                self.size += entry.size();
                return Ok(Some(Place { dir: parent.dir, name: name.to_owned(), indirect: parent.indirect }));
            }
            Kind::Directory => self.make_directory(&parent, name, &clean, entry)?,
            Kind::HardLink => self.make_hard_link(&parent, name, raw, entry, seen.is_some())?,
            _ => self.make_node(&parent, name, raw, entry, seen.is_some())?,
        }
        Ok(None)
    }

    /// The current entry has got this number in the tar-split.
    pub fn numbered(&mut self, ordinal: u32, content: bool) {
        self.slots.insert(self.key, Slot { ordinal, content });
    }

    /// Makes room for a name. A file that another thread makes cannot be asked for: what is there must go first.
    fn clear(&mut self, parent: &Parent, name: &OsStr, seen: bool) -> Result<(), BoxFault> {
        if (seen || self.unseen) && parent.dir.exists(name)? { self.displace(parent, name) } else { Ok(()) }
    }

    /// Opens the directory that an entry is in; makes it when the layer has no entry for it.
    fn parent(&mut self, path: &[u8], raw: &[u8]) -> Result<Parent, BoxFault> {
        if let Some(at) = self.open.iter().rposition(|(known, _)| known == path) {
            // Most recently used last.
            let last = self.open.len() - 1;
            self.open.swap(at, last);
            return Ok(self.open[last].1.clone());
        }
        let wanted = if path.is_empty() { Path::new(".") } else { names::path(path) };
        let tree = &self.target.tree;
        let not_a_directory = || LayerError::Name { path: shown(raw), reason: "it goes through what is no directory" };
        let (dir, indirect) = match tree.open_dir_no_links(wanted) {
            Ok(dir) => (dir, false),
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => {
                self.writers.settle()?;
                self.make_missing(path)?;
                match tree.open_dir_no_links(wanted) {
                    Ok(dir) => (dir, false),
                    Err(_) => match tree.open_dir(wanted) {
                        Err(error) if is_not_directory(&error) => return Err(not_a_directory().into()),
                        other => (other?, true),
                    },
                }
            }
            Err(error) if is_not_directory(&error) => {
                // A symbolic link on the way, or a file: the writers may still have to make it.
                self.writers.settle()?;
                match tree.open_dir(wanted) {
                    Ok(dir) => (dir, true),
                    Err(error) if error.source.kind() == io::ErrorKind::NotFound => {
                        self.make_missing(path)?;
                        // A link to nothing is no directory either, and not ferry's to complete.
                        (tree.open_dir(wanted).map_err(|_| not_a_directory())?, true)
                    }
                    Err(error) if is_not_directory(&error) => return Err(not_a_directory().into()),
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        };
        if self.open.len() >= OPEN_DIRECTORIES {
            self.open.remove(0);
        }
        let parent = Parent { dir: Arc::new(dir), indirect };
        self.open.push((path.to_vec(), parent.clone()));
        Ok(parent)
    }

    /// Directories that entries take for granted: mode 755, as docker makes them.
    fn make_missing(&mut self, path: &[u8]) -> Result<(), BoxFault> {
        let mut so_far = PathBuf::new();
        for component in names::path(path).components() {
            so_far.push(component);
            match self.target.tree.mkdir(&so_far, 0o755) {
                Ok(()) => self.pending.push(Pending { path: so_far.clone(), mode: Some(0o755), mtime: None }),
                Err(error) if error.source.kind() == io::ErrorKind::AlreadyExists => {}
                // What it cannot go through is found out, and named, when the directory is opened.
                Err(error) if is_not_directory(&error) => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.unseen = true;
        Ok(())
    }

    fn make_directory(
        &mut self,
        parent: &Parent,
        name: &OsStr,
        clean: &[u8],
        entry: &mut Entry,
    ) -> Result<(), BoxFault> {
        let attributes = self.attributes(entry);
        match parent.dir.mkdir(name, 0o700) {
            Ok(()) => {}
            Err(error) if error.source.kind() == io::ErrorKind::AlreadyExists => {
                self.writers.settle()?;
                let there = parent.dir.stat(name)?;
                if dir::Kind::in_metadata(&there) != Some(dir::Kind::Directory) {
                    self.displace(parent, name)?;
                    parent.dir.mkdir(name, 0o700)?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        attributes.set_by_name(&parent.dir, name)?;
        self.set_gid_seen |= attributes.mode & 0o2000 != 0;
        let path = if parent.indirect { self.resolved(parent)?.join(name) } else { names::path(clean).to_owned() };
        self.pending.push(Pending { path, mode: Some(attributes.mode), mtime: Some(attributes.mtime) });
        Ok(())
    }

    fn make_hard_link(
        &mut self,
        parent: &Parent,
        name: &OsStr,
        raw: &[u8],
        entry: &Entry,
        seen: bool,
    ) -> Result<(), BoxFault> {
        let target = names::clean(&entry.link)?;
        // The target may still be on its way to the disk.
        self.writers.settle()?;
        let missing = || LayerError::LinkTarget { path: shown(raw), target: shown(&entry.link) };
        if target.is_empty() {
            return Err(missing().into());
        }
        if target == names::clean(raw)? {
            // A link to itself changes nothing.
            return if parent.dir.exists(name)? { Ok(()) } else { Err(missing().into()) };
        }
        let (from, old) = names::split(&target);
        let from = match self.target.tree.open_dir(if from.is_empty() { Path::new(".") } else { names::path(from) }) {
            Ok(dir) => dir,
            Err(error) if error.source.kind() == io::ErrorKind::NotFound || is_not_directory(&error) => {
                return Err(missing().into());
            }
            Err(error) => return Err(error.into()),
        };
        self.clear(parent, name, seen)?;
        match rustix::fs::linkat(&from, old, &*parent.dir, name, rustix::fs::AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::PERM) => Err(missing().into()),
            Err(error) => Err(Err::<(), _>(error).at("link", parent.dir.full(Path::new(name))).unwrap_err().into()),
        }
    }

    fn make_node(
        &mut self,
        parent: &Parent,
        name: &OsStr,
        raw: &[u8],
        entry: &mut Entry,
        seen: bool,
    ) -> Result<(), BoxFault> {
        self.clear(parent, name, seen)?;
        let attributes = self.attributes(entry);
        match entry.kind {
            Kind::Symlink => {
                if entry.link.is_empty() || entry.link.contains(&0) {
                    return Err(LayerError::Name { path: shown(raw), reason: "it is a link to nothing" }.into());
                }
                parent.dir.symlink(names::path(&entry.link), name)?;
                self.size += entry.link.len() as u64;
                attributes.set_by_name(&parent.dir, name)?;
                parent.dir.set_times(name, attributes.mtime)?;
                return Ok(());
            }
            Kind::Fifo => parent.dir.mknod(name, dir::Kind::Fifo, 0o600, 0)?,
            Kind::CharDevice | Kind::BlockDevice => {
                let kind = if entry.kind == Kind::CharDevice { dir::Kind::CharDevice } else { dir::Kind::BlockDevice };
                let device = rustix::fs::makedev(entry.device.0, entry.device.1);
                // In a namespace devices cannot be made, and a container gets its own /dev anyway. 0/0 is the
                // whiteout: as a device of the image it would hide what is below.
                if self.options.userxattr || self.options.single_id || entry.device == (0, 0) {
                    return Ok(());
                }
                parent.dir.mknod(name, kind, 0o600, device)?;
            }
            _ => return Ok(()),
        }
        attributes.set_by_name(&parent.dir, name)?;
        parent.dir.chmod(name, attributes.mode)?;
        parent.dir.set_times(name, attributes.mtime)?;
        Ok(())
    }

    fn make_whiteout(&mut self, parent: &Parent, hidden: &OsStr, raw: &[u8]) -> Result<(), BoxFault> {
        if matches!(hidden.as_bytes(), b"" | b"." | b"..") {
            return Err(LayerError::Name { path: shown(raw), reason: "it hides nothing" }.into());
        }
        self.writers.settle()?;
        self.clear(parent, hidden, true)?;
        self.unseen = true;
        Ok(parent.dir.mknod(hidden, dir::Kind::CharDevice, 0o600, 0)?)
    }

    fn make_opaque(&mut self, path: &[u8]) -> Result<(), BoxFault> {
        let attribute = if self.options.userxattr { "user.overlay.opaque" } else { "trusted.overlay.opaque" };
        if path.is_empty() {
            // The tree's own root: nothing below shows through a layer that replaces all of it.
            let root = &self.target.tree;
            rustix::fs::fsetxattr(root, attribute, b"y", rustix::fs::XattrFlags::empty())
                .at("set an attribute of", root.path())?;
            return Ok(());
        }
        Ok(self.target.tree.set_xattr(names::path(path), OsStr::new(attribute), b"y")?)
    }

    /// Sets what was left for last. Gives the size and what was displaced.
    pub fn finish(mut self) -> Result<(u64, Displaced), BoxFault> {
        // The last entry of a directory counts; deeper ones first, because a mode may lock its owner out.
        let mut last: HashMap<&Path, (Option<u32>, Option<Time>)> = HashMap::new();
        for Pending { path, mode, mtime } in &self.pending {
            let known = last.entry(path).or_default();
            *known = (mode.or(known.0), mtime.or(known.1));
        }
        let mut last: Vec<_> = last.into_iter().collect();
        last.sort_unstable_by(|a, b| b.0.cmp(a.0));
        for (path, (mode, mtime)) in last {
            let dir = match self.target.tree.open_dir_no_links(path) {
                Ok(dir) => dir,
                // Replaced by something else since.
                Err(error) if error.source.kind() == io::ErrorKind::NotFound || is_not_directory(&error) => continue,
                Err(error) => return Err(error.into()),
            };
            if let Some(mode) = mode {
                rustix::fs::fchmod(&dir, rustix::fs::Mode::from_raw_mode(mode)).at("change the mode of", dir.path())?;
            }
            if let Some(Time { seconds, nanoseconds }) = mtime {
                let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
                let both = rustix::fs::Timestamps { last_access: time, last_modification: time };
                rustix::fs::futimens(&dir, &both).at("change the times of", dir.path())?;
            }
        }
        Ok((self.size, std::mem::take(&mut self.displaced)))
    }

    /// Forgets open directories: something they led through was replaced.
    pub(super) fn forget_open(&mut self) {
        self.open.clear();
    }

    fn displace(&mut self, parent: &Parent, name: &OsStr) -> Result<(), BoxFault> {
        let at = self.resolved(parent)?;
        super::displace::displace(self, &parent.dir, &at, name)
    }

    /// Where an open directory is below the root, links resolved.
    fn resolved(&mut self, parent: &Parent) -> Result<PathBuf, PathError> {
        let of = |dir: &Dir| {
            use std::os::fd::{AsFd, AsRawFd};
            let link = format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd());
            std::fs::read_link(&link).at("read", &link)
        };
        if self.real_root.is_none() {
            self.real_root = Some(of(&self.target.tree)?);
        }
        let path = of(&parent.dir)?;
        let root = self.real_root.as_deref().unwrap_or(Path::new("/"));
        Ok(path.strip_prefix(root).unwrap_or(Path::new("")).to_owned())
    }
}

fn is_not_directory(error: &PathError) -> bool {
    use rustix::io::Errno;
    let errno = error.source.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::LOOP | Errno::NOTDIR))
}

/// A file that is written here and now, sparse or not.
pub(super) struct Inline {
    file: File,
    path: PathBuf,
    attributes: Attributes,
    map: SparseMap,
    piece: usize,
    /// Bytes of the current piece that are written.
    done: u64,
}

impl Inline {
    pub fn create(place: &Place, entry: &mut Entry, tree: &mut Tree<'_>) -> Result<Self, BoxFault> {
        let attributes = tree.attributes(entry);
        let path = place.dir.full(Path::new(&place.name));
        let file = place.dir.create_file(&place.name, attributes.mode_at_first())?;
        let whole = || SparseMap { pieces: vec![(0, entry.stored)], size: entry.stored };
        let map = entry.sparse.take().unwrap_or_else(whole);
        file.set_len(map.size).at("write", &path)?;
        Ok(Self { file, path, attributes, map, piece: 0, done: 0 })
    }

    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), PathError> {
        while !bytes.is_empty() {
            let Some((offset, length)) = self.map.pieces.get(self.piece).copied() else { return Ok(()) };
            let n = usize::try_from(length - self.done).unwrap_or(usize::MAX).min(bytes.len());
            self.file.write_all_at(&bytes[..n], offset + self.done).at("write", &self.path)?;
            self.done += n as u64;
            bytes = &bytes[n..];
            if self.done == length {
                self.piece += 1;
                self.done = 0;
            }
        }
        Ok(())
    }

    pub fn finish(self) -> Result<(), PathError> {
        self.attributes.set(&self.file).at("set attributes of", &self.path)
    }
}
