//! Copies as a tar stream, out of a container and into one.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::super::error::RuntimeError;
use super::place::Source;
use super::tree::Owner;
use super::{Borders, DEEPEST, given, is_dir, too_deep};
use crate::base::{AtPath, BoxFault, Ctx, PathError};
use crate::layer::compression::{self, DecodeLimits};
use crate::layer::tar::{self, Entry, Handler, Kind, Time};
use crate::layer::{Churn, Marks, Owners, diff};
use crate::sys::dir::{self, Dir, Metadata};

/// Writes a file or a tree under its base name, up to the borders. With `image` the files have the owners that it knows. A
/// program may be at work in the tree: what goes before it is read is left out, what shrinks is filled up with zeros, and
/// the user is warned of both.
pub fn write(
    source: &Source,
    borders: &Borders,
    image: Option<Image>,
    out: &mut dyn Write,
    ctx: &Ctx,
) -> Result<(), BoxFault> {
    let mut out = BufWriter::with_capacity(1 << 18, out);
    let churn = Churn::new(ctx);
    let base = Path::new(&source.base);
    let mut writer = Writer { out: &mut out, ctx, churn: &churn, borders, base, image, links: HashMap::new() };
    match &source.name {
        Some(name) => writer.entry(&source.parent, Path::new(name), writer.base, 0)?,
        None => {
            let mut entry = writer.describe(writer.base, &source.metadata, Kind::Directory)?;
            entry.path.push(b'/');
            writer.header(&entry)?;
            writer.children(&source.parent, writer.base, 0)?;
        }
    }
    tar::write::end(&mut out).at("write", "the tar stream")?;
    churn.sum_up();
    out.flush().at("write", "the tar stream")?;
    Ok(())
}

struct Writer<'a> {
    out: &'a mut dyn Write,
    ctx: &'a Ctx,
    churn: &'a Churn<'a>,
    borders: &'a Borders,
    /// The name of the source in the stream.
    base: &'a Path,
    image: Option<Image>,
    /// Each file of several names, as it was written first.
    links: HashMap<(u64, u64), Entry>,
}

/// Knows whose the files of a container's image are, where all have one owner on disk.
pub struct Image {
    owners: Owners,
    /// The container's own layer.
    upper: Dir,
    marks: Marks,
    /// The file system of the image's files: volumes have others.
    device: u64,
    /// Where the source is in it.
    at: PathBuf,
    /// The directory gone into last that the container made anew: what is in it is its root's.
    anew: Option<PathBuf>,
}

impl Image {
    /// Of a source that is in `root`, the file system of a container with this layer of its own.
    pub fn new(owners: Owners, (upper, marks): (Dir, Marks), root: &Dir, source: &Source) -> Result<Self, BoxFault> {
        let at = source.path_in(root)?;
        let device = root.stat("")?.st_dev;
        let mut image = Self { owners, upper, marks, device, at: at.clone(), anew: None };
        for above in at.ancestors().skip(1) {
            image.enter(above)?;
        }
        Ok(image)
    }

    /// The owner of something at a path below the source.
    fn owner(&mut self, path: &Path, metadata: &Metadata, kind: Kind) -> Result<(u32, u32), BoxFault> {
        if metadata.st_dev != self.device {
            return Ok((metadata.st_uid, metadata.st_gid));
        }
        // Joining nothing would end it in a slash.
        let full: PathBuf = self.at.components().chain(path.components()).collect();
        if kind == Kind::Directory {
            self.enter(&full)?;
        }
        let anew = self.anew.as_ref().is_some_and(|anew| full.starts_with(anew));
        Ok(if anew { (0, 0) } else { self.owners.of(full.as_os_str().as_bytes(), kind) })
    }

    fn enter(&mut self, directory: &Path) -> Result<(), PathError> {
        let opaque = match self.upper.open_dir_no_links(directory) {
            Err(error) if error.is_gone() => false,
            opened => self.marks.is_opaque(&opened?)?,
        };
        if opaque && !self.anew.as_ref().is_some_and(|anew| directory.starts_with(anew)) {
            self.anew = Some(directory.to_owned());
        }
        Ok(())
    }
}

impl Writer<'_> {
    fn describe(&mut self, path: &Path, metadata: &Metadata, kind: Kind) -> Result<Entry, BoxFault> {
        let (uid, gid) = match &mut self.image {
            Some(image) => image.owner(path.strip_prefix(self.base).unwrap_or(path), metadata, kind)?,
            None => (metadata.st_uid, metadata.st_gid),
        };
        Ok(Entry {
            kind,
            path: path.as_os_str().as_bytes().to_vec(),
            link: Vec::new(),
            mode: metadata.st_mode & 0o7777,
            uid,
            gid,
            mtime: Time { seconds: metadata.st_mtime, nanoseconds: metadata.st_mtime_nsec as u32 },
            device: (0, 0),
            xattrs: Vec::new(),
            stored: 0,
            sparse: None,
        })
    }

    fn header(&mut self, entry: &Entry) -> Result<(), BoxFault> {
        Ok(tar::write::header(self.out, entry).at("write", "the tar stream")?)
    }

    fn children(&mut self, dir: &Dir, path: &Path, depth: usize) -> Result<(), BoxFault> {
        if depth > DEEPEST {
            return Err(too_deep().into());
        }
        let Some(entries) = self.still(dir.entries(), path, depth)? else { return Ok(()) };
        for entry in entries {
            self.entry(dir, Path::new(&entry.name), &path.join(&entry.name), depth + 1)?;
        }
        Ok(())
    }

    /// What was found, unless it has gone since it was listed. What the user has named must be there.
    fn still<T>(&self, found: Result<T, PathError>, path: &Path, depth: usize) -> Result<Option<T>, PathError> {
        match found {
            Err(error) if depth > 0 && error.is_gone() => {
                self.churn.vanished(path.as_os_str().as_bytes());
                Ok(None)
            }
            found => found.map(Some),
        }
    }

    fn entry(&mut self, parent: &Dir, name: &Path, path: &Path, depth: usize) -> Result<(), BoxFault> {
        self.ctx.check()?;
        let Some(metadata) = self.still(parent.stat(name), path, depth)? else { return Ok(()) };
        let kind = match dir::Kind::in_metadata(&metadata) {
            Some(dir::Kind::Directory) => Kind::Directory,
            Some(dir::Kind::Regular) => Kind::Regular,
            Some(dir::Kind::Symlink) => Kind::Symlink,
            Some(dir::Kind::Fifo) => Kind::Fifo,
            Some(dir::Kind::CharDevice) => Kind::CharDevice,
            Some(dir::Kind::BlockDevice) => Kind::BlockDevice,
            Some(dir::Kind::Socket) | None => return Ok(()),
        };
        let mut entry = self.describe(path, &metadata, kind)?;
        let several = metadata.st_nlink > 1 && kind != Kind::Directory;
        if let Some(first) = self.links.get(&(metadata.st_dev, metadata.st_ino)).filter(|_| several) {
            let link = Entry { kind: Kind::HardLink, path: entry.path, link: first.path.clone(), ..first.clone() };
            return self.header(&Entry { stored: 0, xattrs: Vec::new(), ..link });
        }
        match kind {
            Kind::Directory => {
                entry.path.push(b'/');
                let Some(dir) = self.still(parent.open_dir_no_links(name), path, depth)? else { return Ok(()) };
                self.header(&entry)?;
                let within = path.strip_prefix(self.base).unwrap_or(path);
                if self.borders.is_beyond(within, &metadata, &parent.stat("")?) {
                    return Ok(());
                }
                return self.children(&dir, path, depth);
            }
            Kind::Regular => {
                let Some(file) = self.still(parent.open_file_of_others(name), path, depth)? else { return Ok(()) };
                self.file(file, &parent.full(name), &mut entry)?;
            }
            Kind::Symlink => {
                let Some(link) = self.still(parent.read_link(name), path, depth)? else { return Ok(()) };
                entry.link = link.into_os_string().as_bytes().to_vec();
                self.header(&entry)?;
            }
            _ => {
                entry.device = (rustix::fs::major(metadata.st_rdev), rustix::fs::minor(metadata.st_rdev));
                self.header(&entry)?;
            }
        }
        if several {
            self.links.insert((metadata.st_dev, metadata.st_ino), entry);
        }
        Ok(())
    }

    fn file(&mut self, file: File, full: &Path, entry: &mut Entry) -> Result<(), BoxFault> {
        entry.stored = file.metadata().at("read", full)?.len();
        entry.xattrs = diff::attributes(&file).at("read attributes of", full)?;
        self.header(entry)?;
        // The header has promised a size.
        let copied = std::io::copy(&mut file.take(entry.stored), &mut self.out).at("read", full)?;
        let missing = entry.stored.saturating_sub(copied);
        if missing > 0 {
            self.churn.shrank(&entry.path, missing);
            std::io::copy(&mut std::io::repeat(0).take(missing), &mut self.out).at("write", "the tar stream")?;
        }
        Ok(tar::write::pad(self.out, entry.stored).at("write", "the tar stream")?)
    }
}

/// Extracts a tar stream, compressed or not, into the directory `into` below `root`. Symbolic links that are there, or
/// come with the stream, lead to places inside the root only.
pub fn extract(root: &Dir, into: &Path, stream: impl Read + Send, owner: Owner, ctx: &Ctx) -> Result<u64, BoxFault> {
    let mut stream = BufReader::with_capacity(1 << 18, stream);
    let head = std::io::BufRead::fill_buf(&mut stream).at("read", "the tar stream")?;
    let kind = compression::detect(head);
    let mut stream = kind.decoder(Box::new(stream), &DecodeLimits::default()).at("read", "the tar stream")?;
    let mut extract = Extract { root, into, owner, ctx, current: None, directories: Vec::new(), bytes: 0 };
    tar::scan(&mut stream, &mut extract)?;
    for (path, entry) in std::mem::take(&mut extract.directories).iter().rev() {
        extract.attributes(path, entry)?;
    }
    Ok(extract.bytes)
}

struct Extract<'a> {
    root: &'a Dir,
    into: &'a Path,
    owner: Owner,
    ctx: &'a Ctx,
    current: Option<Current>,
    directories: Vec<(PathBuf, Entry)>,
    bytes: u64,
}

/// A file that is being written.
struct Current {
    file: File,
    path: PathBuf,
    entry: Entry,
    /// Pieces still to come: offset, length.
    pieces: std::vec::IntoIter<(u64, u64)>,
    left: u64,
}

impl Extract<'_> {
    /// Where an entry goes; `None` for the directory itself.
    fn place(&self, raw: &[u8]) -> Result<Option<PathBuf>, BoxFault> {
        let name = Path::new(OsStr::from_bytes(raw));
        let mut path = self.into.to_owned();
        let mut any = false;
        for part in name.components() {
            match part {
                Component::Normal(part) => {
                    path.push(part);
                    any = true;
                }
                Component::ParentDir => {
                    let shown = String::from_utf8_lossy(raw).into_owned();
                    return Err(crate::layer::LayerError::Escape(shown).into());
                }
                _ => {}
            }
        }
        Ok(any.then_some(path))
    }

    fn begin(&mut self, entry: Entry) -> Result<(), BoxFault> {
        if matches!(entry.kind, Kind::Global | Kind::Other(_)) {
            return Ok(());
        }
        let Some(path) = self.place(&entry.path)? else { return Ok(()) };
        if let Some(parent) = path.parent() {
            self.root.mkdir_all(parent, 0o755)?;
        }
        let directory = entry.kind == Kind::Directory;
        let there = match self.root.stat(&path) {
            Ok(found) => Some(is_dir(&found)),
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let conflict = |what: &str| -> BoxFault {
            RuntimeError::Conflict(format!("cannot overwrite {what} at {}", self.root.full(&path).display())).into()
        };
        match (there, directory) {
            (Some(true), false) => return Err(conflict("a directory with a non-directory")),
            (Some(false), true) => return Err(conflict("a non-directory with a directory")),
            (Some(false), false) => self.root.remove(&path)?,
            _ => {}
        }
        match entry.kind {
            Kind::Directory => {
                if there.is_none() {
                    self.root.mkdir(&path, 0o700)?;
                }
                self.directories.push((path, entry));
                return Ok(());
            }
            Kind::Regular => {
                let file = self.root.create_file(&path, 0o600)?;
                let pieces = match &entry.sparse {
                    Some(map) => {
                        file.set_len(map.size).at("write", self.root.full(&path))?;
                        map.pieces.clone()
                    }
                    None => vec![(0, entry.stored)],
                };
                self.current = Some(Current { file, path, entry, pieces: pieces.into_iter(), left: 0 });
                return Ok(());
            }
            Kind::HardLink => {
                let target = self.place(&entry.link)?;
                let none = || RuntimeError::Malformed("a hard link in the tar stream points to nothing".into());
                return Ok(self.root.hard_link(target.ok_or_else(none)?, &path)?);
            }
            Kind::Symlink => self.root.symlink(Path::new(OsStr::from_bytes(&entry.link)), &path)?,
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                let kind = match entry.kind {
                    Kind::CharDevice => dir::Kind::CharDevice,
                    Kind::BlockDevice => dir::Kind::BlockDevice,
                    _ => dir::Kind::Fifo,
                };
                let device = rustix::fs::makedev(entry.device.0, entry.device.1);
                self.root.mknod(&path, kind, 0o600, device)?;
            }
            Kind::Global | Kind::Other(_) => return Ok(()),
        }
        self.attributes(&path, &entry)
    }

    fn attributes(&self, path: &Path, entry: &Entry) -> Result<(), BoxFault> {
        match self.owner {
            Owner::Kept => given(self.root.chown(path, entry.uid, entry.gid))?,
            Owner::Fixed(uid, gid) => self.root.chown(path, uid, gid)?,
            Owner::Own => {}
        }
        if entry.kind != Kind::Symlink {
            self.root.chmod(path, entry.mode)?;
        }
        // After the owner: a change of that takes capabilities away.
        for (name, value) in entry.xattrs.iter().filter(|(name, _)| name == diff::CAPABILITY.as_bytes()) {
            self.root.set_xattr(path, OsStr::from_bytes(name), value)?;
        }
        let time = dir::Time { seconds: entry.mtime.seconds, nanoseconds: entry.mtime.nanoseconds };
        Ok(self.root.set_times(path, time)?)
    }
}

impl Handler for Extract<'_> {
    fn raw(&mut self, _: &[u8]) -> Result<(), BoxFault> {
        Ok(())
    }

    fn entry(&mut self, entry: Entry, _: u64) -> Result<(), BoxFault> {
        self.ctx.check()?;
        self.begin(entry)
    }

    fn data(&mut self, mut bytes: &[u8]) -> Result<(), BoxFault> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let full = self.root.full(&current.path);
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            if current.left == 0 {
                let Some((offset, length)) = current.pieces.next() else { break };
                current.file.seek(SeekFrom::Start(offset)).at("write", &full)?;
                current.left = length;
                continue;
            }
            let n = usize::try_from(current.left).unwrap_or(usize::MAX).min(bytes.len());
            let (now, rest) = bytes.split_at(n);
            current.file.write_all(now).at("write", &full)?;
            current.left -= n as u64;
            bytes = rest;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), BoxFault> {
        match self.current.take() {
            Some(current) => self.attributes(&current.path, &current.entry),
            None => Ok(()),
        }
    }
}
