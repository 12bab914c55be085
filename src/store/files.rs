//! Small files of the store, read with a cap and an error that names them.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::str::FromStr;

use super::error::StoreError;
use crate::base::{AtPath, PathError, caps};

/// The most that a one-line metadata file may hold: `lower` of 127 layers is the longest.
const LINE_BYTES: u64 = 16 << 10;

/// The whole file; `None` when there is none.
pub fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, PathError> {
    match File::open(path) {
        Ok(mut file) => caps::read_all(&mut file, limit, &path.to_string_lossy()).map(Some).at("read", path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at("open", path),
    }
}

/// The text of a one-line file, without blanks at its ends; `None` when there is none.
pub fn line(path: &Path) -> Result<Option<String>, StoreError> {
    let Some(bytes) = read(path, LINE_BYTES)? else { return Ok(None) };
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(_) => Err(StoreError::Damaged { path: path.to_owned(), reason: "not text".into() }),
    }
}

/// What a one-line file says; `None` when there is none.
pub fn parsed<T: FromStr>(path: &Path) -> Result<Option<T>, StoreError>
where
    T::Err: ToString,
{
    let Some(text) = line(path)? else { return Ok(None) };
    match text.parse() {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            Err(StoreError::Damaged { path: path.to_owned(), reason: <T::Err as ToString>::to_string(&error) })
        }
    }
}

/// What a one-line file that must be there says.
pub fn required<T: FromStr>(path: &Path) -> Result<T, StoreError>
where
    T::Err: ToString,
{
    parsed(path)?.ok_or_else(|| StoreError::Damaged { path: path.to_owned(), reason: "it is missing".into() })
}

/// The names in a directory, sorted; none when it does not exist. Names that are not text are none of the store's.
pub fn names(path: &Path) -> Result<Vec<String>, PathError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).at("open", path),
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry.at("read", path)?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The names in a directory that are `T`, sorted.
pub fn listed<T>(path: &Path, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, PathError> {
    Ok(names(path)?.iter().filter_map(|name| parse(name)).collect())
}

/// Makes a directory with exactly these permission bits, whatever the umask, unless it is there.
pub fn mkdir(path: &Path, mode: u32) -> Result<(), PathError> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        result => result.at("create", path)?,
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).at("chmod", path)
}

/// Removes a file; one that is not there is as good.
pub fn remove(path: &Path) -> Result<(), PathError> {
    gone(fs::remove_file(path)).at("remove", path)
}

/// Removes a tree, never following a symbolic link; one that is not there is as good.
pub fn remove_tree(path: &Path) -> Result<(), PathError> {
    gone(fs::remove_dir_all(path)).at("remove", path)
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
