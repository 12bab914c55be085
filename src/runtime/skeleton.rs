//! What is in every container whatever its image holds: the places that ferry mounts over. They are in the init layer,
//! below what the container changes, so that neither `diff` nor `commit` takes them for the container's.

use std::ffi::OsStr;
use std::path::Path;

use crate::base::{AtPath, PathError};
use crate::store::RwLayer;
use crate::sys::dir::{Dir, Kind, Metadata, Time};

enum Thing {
    Directory,
    File,
    Link(&'static str),
}

/// Docker's list (moby `daemon/initlayer/setup_unix.go`).
const SKELETON: [(&str, Thing); 10] = [
    ("dev/pts", Thing::Directory),
    ("dev/shm", Thing::Directory),
    ("proc", Thing::Directory),
    ("sys", Thing::Directory),
    (".dockerenv", Thing::File),
    ("etc/resolv.conf", Thing::File),
    ("etc/hosts", Thing::File),
    ("etc/hostname", Thing::File),
    ("dev/console", Thing::File),
    ("etc/mtab", Thing::Link("/proc/mounts")),
];

/// Fills a new container's init layer with what its image lacks.
pub fn fill(layer: &RwLayer, userxattr: bool) -> Result<(), PathError> {
    let Some(init) = &layer.init else { return Ok(()) };
    let names = init.lower_option.iter().flat_map(|option| option.split(':'));
    let lower = names.map(|name| Dir::open(layer.base.join(name))).collect::<Result<Vec<_>, _>>()?;
    let image = Image { lower, userxattr };
    let upper = Dir::open(&init.upper)?;
    for (path, thing) in SKELETON {
        let path = Path::new(path);
        if image.stat(path)?.is_some() || !parent(&upper, &image, path)? {
            continue;
        }
        match thing {
            Thing::Directory => upper.mkdir(path, 0o755)?,
            Thing::File => drop(upper.create_file(path, 0o755)?),
            Thing::Link(target) => upper.symlink(target, path)?,
        }
    }
    // What was put into a directory of the image's has not changed it.
    for name in ["dev", "etc"] {
        if let Some(found) = image.stat(Path::new(name))?.filter(|_| upper.exists(name).unwrap_or(false)) {
            upper.set_times(name, time(&found))?;
        }
    }
    Ok(())
}

fn time(of: &Metadata) -> Time {
    Time { seconds: of.st_mtime, nanoseconds: of.st_mtime_nsec as u32 }
}

/// Makes the directory of a path, like the image's where that has one. `false` when the image has something else there:
/// what that means is found out when the container starts.
fn parent(upper: &Dir, image: &Image, path: &Path) -> Result<bool, PathError> {
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(true) };
    if upper.exists(parent)? {
        return Ok(true);
    }
    match image.stat(parent)? {
        Some(found) if Kind::in_metadata(&found) == Some(Kind::Directory) => {
            upper.mkdir(parent, 0o700)?;
            // Without the right to give files away all of them are this user's.
            match upper.chown(parent, found.st_uid, found.st_gid) {
                Err(error) if error.source.kind() == std::io::ErrorKind::PermissionDenied => {}
                done => done?,
            }
            upper.chmod(parent, found.st_mode & 0o7777)?;
            Ok(true)
        }
        Some(_) => Ok(false),
        None => {
            upper.mkdir(parent, 0o755)?;
            Ok(true)
        }
    }
}

/// An image's layers, the top one first.
struct Image {
    lower: Vec<Dir>,
    userxattr: bool,
}

impl Image {
    /// What the layers together have at a path of one or two components.
    fn stat(&self, path: &Path) -> Result<Option<Metadata>, PathError> {
        for layer in &self.lower {
            if let Some(found) = there(layer, path)? {
                return Ok((!self.is_whiteout(layer, path, &found)?).then_some(found));
            }
            let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else { continue };
            if let Some(found) = there(layer, parent)? {
                let directory = Kind::in_metadata(&found) == Some(Kind::Directory);
                if !directory || self.marked(layer, parent, "opaque")? {
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    fn is_whiteout(&self, layer: &Dir, path: &Path, found: &Metadata) -> Result<bool, PathError> {
        match Kind::in_metadata(found) {
            Some(Kind::CharDevice) => Ok(found.st_rdev == 0),
            Some(Kind::Regular) if found.st_size == 0 => self.marked(layer, path, "whiteout"),
            _ => Ok(false),
        }
    }

    fn marked(&self, layer: &Dir, path: &Path, mark: &str) -> Result<bool, PathError> {
        let name = format!("{}.overlay.{mark}", if self.userxattr { "user" } else { "trusted" });
        Ok(layer.xattr(path, OsStr::new(&name))?.is_some_and(|value| mark == "whiteout" || value == b"y"))
    }
}

fn there(layer: &Dir, path: &Path) -> Result<Option<Metadata>, PathError> {
    use std::io::ErrorKind;
    match layer.stat(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error.source).at("read", layer.full(path)),
    }
}
