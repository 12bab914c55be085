//! What a layer makes and then replaces itself: out of the way, but not lost, since the tar still has it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::super::tar_split::{Piece, Reader, Writer};
use super::Target;
use super::names;
use super::tree::{Slot, Tree};
use crate::base::durable::AtomicFile;
use crate::base::{AtPath, BoxFault, PathError};
use crate::sys::dir::{Dir, Kind};

/// Numbers of file entries that must not stand in the tar-split as such, and where their content is now.
pub(super) type Displaced = BTreeMap<u32, Option<PathBuf>>;

/// Takes away what has a name in the tree, all below it included. Contents that the tar-split leaves to their files
/// are kept aside. `at` is where `dir` is below the root.
pub(super) fn displace(tree: &mut Tree<'_>, dir: &Dir, at: &Path, name: &OsStr) -> Result<(), BoxFault> {
    tree.writers.settle()?;
    let mut left: Vec<(PathBuf, OsString)> = vec![(PathBuf::new(), name.to_owned())];
    while let Some((below, name)) = left.pop() {
        let here = below.join(&name);
        let there = dir.stat(&here)?;
        match Kind::in_metadata(&there) {
            Some(Kind::Directory) => {
                let entries = dir.open_dir_no_links(&here)?.entries()?;
                left.extend(entries.into_iter().map(|entry| (here.clone(), entry.name)));
            }
            Some(Kind::Regular) => {
                if there.st_nlink <= 1 {
                    tree.size = tree.size.saturating_sub(u64::try_from(there.st_size).unwrap_or(0));
                }
                keep(tree, dir, &here, &at.join(&here))?;
            }
            Some(Kind::Symlink) => tree.size = tree.size.saturating_sub(u64::try_from(there.st_size).unwrap_or(0)),
            _ => {}
        }
    }
    dir.remove(name)?;
    tree.forget_open();
    Ok(())
}

/// Moves a file aside when the tar-split needs its content.
fn keep(tree: &mut Tree<'_>, dir: &Dir, here: &Path, whole: &Path) -> Result<(), BoxFault> {
    let key = names::key(whole.as_os_str().as_bytes());
    let Some(Slot { ordinal, content: true }) = tree.slots.get(&key).copied() else { return Ok(()) };
    let spare = &tree.target.spare;
    fs::create_dir_all(spare).at("create", spare)?;
    let kept = spare.join(ordinal.to_string());
    let full = dir.full(here);
    let (parent, name) = (here.parent().unwrap_or(Path::new("")), here.file_name().unwrap_or_default());
    let from = dir.open_dir_no_links(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?;
    let to = Dir::open(spare)?;
    rustix::fs::renameat(&from, name, &to, ordinal.to_string()).at("move aside", full)?;
    tree.displaced.insert(ordinal, Some(kept));
    Ok(())
}

/// Writes the tar-split anew, with the contents of displaced entries as raw bytes.
pub(super) fn rewrite(target: &Target, displaced: &Displaced) -> Result<(), BoxFault> {
    let path = &target.tar_split;
    let mut reader = Reader::new(File::open(path).at("read", path)?);
    let mut writer = Writer::new(AtomicFile::create(path, 0o644)?);
    let mut ordinal = 0;
    while let Some(piece) = reader.next_piece().at("read", path)? {
        match piece {
            Piece::Segment(bytes) => writer.segment(&bytes).at("write", path)?,
            Piece::File { name, size, crc } => {
                match displaced.get(&ordinal) {
                    None => writer.file(&name, size, crc).at("write", path)?,
                    Some(None) => {}
                    Some(Some(kept)) => copy(kept, &mut writer, path)?,
                }
                ordinal += 1;
            }
        }
    }
    writer.finish().at("write", path)?.commit()?;
    match fs::remove_dir_all(&target.spare) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => Ok(other.at("remove", &target.spare)?),
    }
}

fn copy(kept: &Path, writer: &mut Writer<AtomicFile>, path: &Path) -> Result<(), PathError> {
    let mut file = File::open(kept).at("read", kept)?;
    let mut buf = vec![0; 128 << 10];
    loop {
        let n = file.read(&mut buf).at("read", kept)?;
        if n == 0 {
            return Ok(());
        }
        writer.segment(&buf[..n]).at("write", path)?;
    }
}
