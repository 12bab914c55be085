//! Copying a file or a tree from one directory to another, descriptor by descriptor.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::super::error::RuntimeError;
use super::place::{Place, Source};
use super::{Borders, DEEPEST, given, is_dir, too_deep};
use crate::base::{AtPath, BoxFault, Ctx};
use crate::layer::diff;
use crate::sys::dir::{Dir, Kind, Metadata, Time};

/// Whom the copies belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Whom the originals belong to.
    Kept,
    /// This user and group.
    Fixed(u32, u32),
    /// Whoever copies.
    Own,
}

/// Copies; gives the bytes of the files. A file is there whole or not at all. What is beyond the borders is left out.
pub fn into(
    source: &Source,
    place: &Place,
    owner: Owner,
    borders: Option<&Borders>,
    ctx: &Ctx,
) -> Result<u64, BoxFault> {
    let base = match (&source.name, &place.name) {
        (Some(_), Some(new)) => Path::new(new),
        (Some(name), None) => Path::new(name),
        (None, _) => Path::new(""),
    };
    let mut copy = Copy { owner, ctx, borders, base, top: &place.parent, links: HashMap::new(), bytes: 0, sockets: 0 };
    match &source.name {
        Some(name) => copy.entry((&source.parent, name), (&place.parent, base.as_os_str()), Path::new(""), 0)?,
        None => copy.children(&source.parent, &place.parent, Path::new(""), 0)?,
    }
    if copy.sockets > 0 {
        ctx.warn(format!("{} sockets are left out", copy.sockets));
    }
    Ok(copy.bytes)
}

struct Copy<'a> {
    owner: Owner,
    ctx: &'a Ctx,
    borders: Option<&'a Borders>,
    /// The name of the source in the target.
    base: &'a Path,
    top: &'a Dir,
    /// The first name, below `top`, of each file that has several.
    links: HashMap<(u64, u64), PathBuf>,
    bytes: u64,
    sockets: u64,
}

impl Copy<'_> {
    fn children(&mut self, from: &Dir, to: &Dir, path: &Path, depth: usize) -> Result<(), BoxFault> {
        if depth > DEEPEST {
            return Err(too_deep().into());
        }
        for entry in from.entries()? {
            self.entry((from, &entry.name), (to, &entry.name), path, depth)?;
        }
        Ok(())
    }

    /// `path` is where `to` is below the top.
    fn entry(
        &mut self,
        (from, name): (&Dir, &OsStr),
        (to, new): (&Dir, &OsStr),
        path: &Path,
        depth: usize,
    ) -> Result<(), BoxFault> {
        self.ctx.check()?;
        let metadata = from.stat(name)?;
        let there = match to.stat(new) {
            Ok(found) => Some(found),
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let path = path.join(new);
        match (there.as_ref().map(is_dir), is_dir(&metadata)) {
            (Some(true), false) => {
                let shown = to.full(Path::new(new));
                return Err(RuntimeError::Conflict(format!(
                    "cannot overwrite directory {} with non-directory",
                    shown.display()
                ))
                .into());
            }
            (Some(false), true) => {
                let shown = to.full(Path::new(new));
                return Err(RuntimeError::Conflict(format!(
                    "cannot overwrite non-directory {} with directory",
                    shown.display()
                ))
                .into());
            }
            _ => {}
        }
        let made = match Kind::in_metadata(&metadata) {
            Some(Kind::Directory) => {
                if there.is_none() {
                    to.mkdir(new, 0o700)?;
                }
                let inner = to.open_dir_no_links(new)?;
                let within = path.strip_prefix(self.base).unwrap_or(&path);
                let beyond = match self.borders {
                    Some(borders) => borders.is_beyond(within, &metadata, &from.stat("")?),
                    None => false,
                };
                if !beyond {
                    self.children(&from.open_dir_no_links(name)?, &inner, &path, depth + 1)?;
                }
                return self.attributes(to, new, &metadata);
            }
            Some(Kind::Socket) | None => {
                self.sockets += 1;
                return Ok(());
            }
            Some(_) => temporary(new)?,
        };
        let first = self.links.get(&(metadata.st_dev, metadata.st_ino)).filter(|_| metadata.st_nlink > 1);
        let done = match first {
            Some(first) => self.top.hard_link(first, path.with_file_name(&made)).map_err(BoxFault::from),
            None => self.make((from, name), (to, &made), &metadata),
        };
        if let Err(fault) = done.and_then(|()| to.rename(&made, new).map_err(BoxFault::from)) {
            let _ = to.remove(&made);
            return Err(fault);
        }
        // Renaming one name of a file to another of it does nothing.
        let _ = to.remove(&made);
        if metadata.st_nlink > 1 {
            self.links.entry((metadata.st_dev, metadata.st_ino)).or_insert(path);
        }
        Ok(())
    }

    fn make(
        &mut self,
        (from, name): (&Dir, &OsStr),
        (to, new): (&Dir, &OsStr),
        metadata: &Metadata,
    ) -> Result<(), BoxFault> {
        let mut extended = Vec::new();
        match Kind::in_metadata(metadata) {
            Some(Kind::Regular) => {
                let mut read = from.open_file_of_others(name)?;
                if self.owner != Owner::Own {
                    extended = diff::attributes(&read).at("read attributes of", from.full(Path::new(name)))?;
                }
                let mut write = to.create_file(new, 0o600)?;
                self.bytes += io::copy(&mut read, &mut write).at("copy to", to.full(Path::new(new)))?;
            }
            Some(Kind::Symlink) => to.symlink(from.read_link(name)?, new)?,
            Some(kind) => to.mknod(new, kind, 0o600, metadata.st_rdev)?,
            None => {}
        }
        self.attributes(to, new, metadata)?;
        // After the owner: a change of that takes capabilities away.
        for (attribute, value) in &extended {
            to.set_xattr(new, OsStr::from_bytes(attribute), value)?;
        }
        Ok(())
    }

    fn attributes(&self, to: &Dir, name: &OsStr, metadata: &Metadata) -> Result<(), BoxFault> {
        match self.owner {
            Owner::Kept => given(to.chown(name, metadata.st_uid, metadata.st_gid))?,
            Owner::Fixed(uid, gid) => to.chown(name, uid, gid)?,
            Owner::Own => {}
        }
        if Kind::in_metadata(metadata) != Some(Kind::Symlink) {
            to.chmod(name, metadata.st_mode & 0o7777)?;
        }
        let time = Time { seconds: metadata.st_mtime, nanoseconds: metadata.st_mtime_nsec as u32 };
        Ok(to.set_times(name, time)?)
    }
}

/// A name beside the final one, under which a file is made.
fn temporary(name: &OsStr) -> Result<OsString, RuntimeError> {
    let random = super::super::create::random_id()?;
    let mut made = OsString::from(".ferry-cp-");
    made.push(random.get(..16).unwrap_or_default());
    debug_assert_ne!(made, name);
    Ok(made)
}
