//! What a container changed, as `docker diff` tells it: its overlay's upper directory compared with the layers below.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::RuntimeError;
use crate::base::{BoxFault, Ctx, PathError};
use crate::sys::dir::{Dir, Kind, Metadata};

/// How something changed. The letters are docker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Added,
    /// It is another, or has other attributes; a directory also when something below it changed.
    Changed,
    /// It is gone, and with it what was below.
    Deleted,
}

impl Change {
    /// Docker's letter.
    pub fn letter(self) -> char {
        match self {
            Self::Added => 'A',
            Self::Changed => 'C',
            Self::Deleted => 'D',
        }
    }
}

/// All changes, in order of their paths. `lower` is what the layers below show together; `None` when there are none. What
/// a program takes away meanwhile is left out.
pub fn between(
    upper: &Dir,
    lower: Option<&Dir>,
    userxattr: bool,
    ctx: &Ctx,
) -> Result<Vec<(PathBuf, Change)>, BoxFault> {
    let mut walk = Walk { userxattr, ctx, found: Vec::new() };
    walk.directory(Path::new("/"), upper, lower)?;
    Ok(walk.found)
}

struct Walk<'a> {
    userxattr: bool,
    ctx: &'a Ctx,
    found: Vec<(PathBuf, Change)>,
}

/// Two descriptors a level are held open.
const DEEPEST: usize = 400;

impl Walk<'_> {
    fn directory(&mut self, path: &Path, upper: &Dir, lower: Option<&Dir>) -> Result<(), RuntimeError> {
        self.ctx.check().map_err(|interrupted| RuntimeError::Other(interrupted.into()))?;
        if path.components().count() > DEEPEST {
            let why = format!("directories of the container are nested deeper than {DEEPEST} levels");
            return Err(RuntimeError::Unsupported(why));
        }
        let opaque = lower.is_some() && self.marked(upper, Path::new("."), "opaque")?;
        let mut names: BTreeSet<OsString> = upper.entries()?.into_iter().map(|entry| entry.name).collect();
        if let (true, Some(lower)) = (opaque, lower) {
            // What an opaque directory does not hold again is gone.
            names.extend(lower.entries()?.into_iter().map(|entry| entry.name));
        }
        for name in names {
            let name = Path::new(&name);
            let path = path.join(name);
            let at = self.found.len();
            match self.entry(path, name, upper, lower) {
                Err(RuntimeError::Path(error)) if error.is_gone() => self.found.truncate(at),
                looked => looked?,
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: PathBuf, name: &Path, upper: &Dir, lower: Option<&Dir>) -> Result<(), RuntimeError> {
        let below = match lower {
            Some(lower) => stat(lower, name)?,
            None => None,
        };
        match (stat(upper, name)?, below) {
            (None, None) => {}
            (None, Some(_)) => self.found.push((path, Change::Deleted)),
            (Some(own), below) if self.is_whiteout(upper, name, &own)? => {
                if below.is_some() {
                    self.found.push((path, Change::Deleted));
                }
            }
            (Some(own), None) => {
                self.found.push((path.clone(), Change::Added));
                if is_dir(&own) {
                    self.directory(&path, &upper.open_dir_no_links(name)?, None)?;
                }
            }
            (Some(own), Some(below)) => self.both(path, name, (upper, &own), (lower, &below))?,
        }
        Ok(())
    }

    fn both(
        &mut self,
        path: PathBuf,
        name: &Path,
        (upper, own): (&Dir, &Metadata),
        (lower, below): (Option<&Dir>, &Metadata),
    ) -> Result<(), RuntimeError> {
        let at = self.found.len();
        let mut changed = differ(own, below);
        if is_dir(own) {
            let inner = match lower.filter(|_| is_dir(below)) {
                Some(lower) => Some(lower.open_dir_no_links(name)?),
                None => None,
            };
            self.directory(&path, &upper.open_dir_no_links(name)?, inner.as_ref())?;
            changed |= self.found.len() > at;
        }
        if changed {
            self.found.insert(at, (path, Change::Changed));
        }
        Ok(())
    }

    fn is_whiteout(&self, dir: &Dir, name: &Path, own: &Metadata) -> Result<bool, PathError> {
        match Kind::in_metadata(own) {
            Some(Kind::CharDevice) => Ok(own.st_rdev == 0),
            Some(Kind::Regular) if own.st_size == 0 => self.marked(dir, name, "whiteout"),
            _ => Ok(false),
        }
    }

    fn marked(&self, dir: &Dir, name: &Path, mark: &str) -> Result<bool, PathError> {
        let space = if self.userxattr { "user" } else { "trusted" };
        let attribute = OsString::from(format!("{space}.overlay.{mark}"));
        let value = dir.xattr(name, &attribute)?;
        Ok(value.is_some_and(|value| mark == "whiteout" || value == b"y"))
    }
}

fn is_dir(metadata: &Metadata) -> bool {
    Kind::in_metadata(metadata) == Some(Kind::Directory)
}

fn stat(dir: &Dir, name: &Path) -> Result<Option<Metadata>, PathError> {
    match dir.stat(name) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Docker's question (moby `archive/changes_unix.go`): the times and sizes of directories do not count.
fn differ(own: &Metadata, below: &Metadata) -> bool {
    own.st_mode != below.st_mode
        || own.st_uid != below.st_uid
        || own.st_gid != below.st_gid
        || own.st_rdev != below.st_rdev
        || !is_dir(own)
            && (own.st_size != below.st_size
                || own.st_mtime != below.st_mtime
                || own.st_mtime_nsec != below.st_mtime_nsec)
}
