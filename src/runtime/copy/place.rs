//! Docker's rules for what a copy's two paths mean (docker/cli `docs/reference/commandline/cp.md`).

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Component, Path, PathBuf};

use super::super::error::RuntimeError;
use super::is_dir;
use crate::base::AtPath;
use crate::sys::dir::{Dir, Kind, Metadata};

/// As many as the kernel follows.
const LINKS: usize = 40;

/// A path as typed, below a root.
#[derive(Debug, Clone)]
struct Typed {
    /// Cleaned, absolute below the root.
    path: PathBuf,
    /// It says that it is a directory: it ends in a slash or a dot.
    directory: bool,
    /// It means what is in the directory, and not the directory: it ends in `/.`.
    contents: bool,
}

impl Typed {
    fn new(text: &Path) -> Self {
        let raw = text.as_os_str().as_encoded_bytes();
        let contents = raw == b"." || raw.ends_with(b"/.");
        let directory = contents || raw.ends_with(b"/") || raw == b".." || raw.ends_with(b"/..");
        let mut path = PathBuf::from("/");
        for part in text.components() {
            match part {
                Component::Normal(name) => path.push(name),
                Component::ParentDir => drop(path.pop()),
                _ => {}
            }
        }
        Self { path, directory, contents }
    }
}

fn look(root: &Dir, path: &Path) -> Result<Option<Metadata>, RuntimeError> {
    match root.stat(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if matches!(error.source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Follows symbolic links at the end of a path, inside the root.
fn follow(root: &Dir, path: &Path) -> Result<PathBuf, RuntimeError> {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        match look(root, &path)? {
            Some(found) if Kind::in_metadata(&found) == Some(Kind::Symlink) => {
                let target = root.read_link(&path)?;
                let parent = path.parent().unwrap_or(Path::new("/"));
                // `..` behind a link counts from where the link leads: the kernel resolves it, not this.
                path = parent.join(target);
            }
            _ => return Ok(path),
        }
    }
    Err(RuntimeError::usage(format!("too many symbolic links at {}", root.full(&path).display())))
}

/// What is copied.
#[derive(Debug)]
pub struct Source {
    /// The directory it is in, or the directory itself when only what it holds is copied.
    pub parent: Dir,
    /// Its name there; `None` for what the directory holds.
    pub name: Option<OsString>,
    /// The name it gets in a directory.
    pub base: OsString,
    /// What it is.
    pub metadata: Metadata,
}

impl Source {
    /// Finds it. With `follow_link` a symbolic link stands for what it leads to, under the link's name.
    pub fn find(root: &Dir, text: &Path, follow_link: bool) -> Result<Self, RuntimeError> {
        let typed = Typed::new(text);
        let missing = || RuntimeError::NotFound(format!("there is no {} to copy", text.display()));
        let path = if follow_link || typed.directory { follow(root, &typed.path)? } else { typed.path.clone() };
        let metadata = look(root, &path)?.ok_or_else(missing)?;
        if typed.directory && !is_dir(&metadata) {
            return Err(RuntimeError::usage(format!("{} is not a directory", text.display())));
        }
        let base = typed.path.file_name().unwrap_or(OsStr::new("/")).to_owned();
        match (path.file_name(), path.parent()) {
            (Some(name), Some(parent)) if !typed.contents => {
                Ok(Self { parent: root.open_dir(parent)?, name: Some(name.to_owned()), base, metadata })
            }
            _ => Ok(Self { parent: root.open_dir(&path)?, name: None, base: OsString::from("."), metadata }),
        }
    }

    /// Where it is below `root`, which it was found in; without a slash in front.
    pub fn path_in(&self, root: &Dir) -> Result<PathBuf, RuntimeError> {
        let shown = |dir: &Dir| -> Result<PathBuf, RuntimeError> {
            let link = format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd());
            Ok(std::fs::read_link(&link).at("read", &link)?)
        };
        let parent = shown(&self.parent)?;
        let inside = parent.strip_prefix(shown(root)?).unwrap_or(&parent);
        Ok(self.name.as_ref().map_or_else(|| inside.to_owned(), |name| inside.join(name)))
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        is_dir(&self.metadata)
    }
}

/// Where the copy goes.
#[derive(Debug)]
pub struct Place {
    /// The directory it is made in.
    pub parent: Dir,
    /// Its name there; `None` when what a directory holds goes into the directory.
    pub name: Option<OsString>,
}

impl Place {
    /// Finds the place for `source`, by docker's rules: into a directory that is there, as a file or a directory of the
    /// name given otherwise.
    pub fn find(root: &Dir, text: &Path, source: &Source) -> Result<Self, RuntimeError> {
        let typed = Typed::new(text);
        let path = follow(root, &typed.path)?;
        let found = look(root, &path)?;
        let inside = |path: &Path| -> Result<Self, RuntimeError> {
            let name = source.name.is_some().then(|| source.base.clone());
            Ok(Self { parent: root.open_dir(path)?, name })
        };
        match found {
            Some(found) if is_dir(&found) => return inside(&path),
            Some(_) if typed.directory => {
                return Err(RuntimeError::usage(format!("{} is not a directory", text.display())));
            }
            Some(_) if source.is_dir() => {
                return Err(RuntimeError::usage(format!("cannot copy a directory to the file {}", text.display())));
            }
            Some(_) => {}
            None if typed.directory && !source.is_dir() => {
                return Err(RuntimeError::NotFound(format!("no such directory: {}", text.display())));
            }
            None => {}
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return inside(&path) };
        let missing = || RuntimeError::NotFound(format!("the directory of {} does not exist", text.display()));
        look(root, &follow(root, parent)?)?.filter(is_dir).ok_or_else(missing)?;
        let parent = root.open_dir(parent)?;
        if source.name.is_some() {
            return Ok(Self { parent, name: Some(name.to_owned()) });
        }
        // What a directory holds, into one that is still to be made.
        parent.mkdir(name, source.metadata.st_mode & 0o7777)?;
        Ok(Self { parent: parent.open_dir_no_links(name)?, name: None })
    }

    /// The directory into which a tar stream is extracted, as a path below the root: it must be there.
    pub fn directory(root: &Dir, text: &Path) -> Result<PathBuf, RuntimeError> {
        let path = follow(root, &Typed::new(text).path)?;
        match look(root, &path)? {
            Some(found) if is_dir(&found) => Ok(path),
            Some(_) => Err(RuntimeError::usage(format!("{} must be a directory", text.display()))),
            None => Err(RuntimeError::NotFound(format!("there is no directory {}", text.display()))),
        }
    }
}
