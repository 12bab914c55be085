//! Names of entries, made safe to use.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::super::error::{LayerError, shown};
use crate::base::caps;

/// A name as a path below the layer's root: no leading slash, no `.`, no `..`, no empty component. Empty for the root.
///
/// Cleaned by its letters alone, as Go's `filepath.Clean` does: docker finds a file by its name cleaned in this way.
pub(crate) fn clean(name: &[u8]) -> Result<Vec<u8>, LayerError> {
    let mut out: Vec<u8> = Vec::with_capacity(name.len());
    for component in name.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                if out.is_empty() && name.first() != Some(&b'/') {
                    return Err(LayerError::Escape(shown(name)));
                }
                let parent = out.iter().rposition(|b| *b == b'/').unwrap_or(0);
                out.truncate(parent);
            }
            component if component.len() > caps::NAME_BYTES => {
                return Err(LayerError::Name { path: shown(name), reason: "a component is longer than 255 bytes" });
            }
            component => {
                if !out.is_empty() {
                    out.push(b'/');
                }
                out.extend_from_slice(component);
            }
        }
    }
    Ok(out)
}

/// A clean path's directory (empty for the root) and its last component.
pub(crate) fn split(clean: &[u8]) -> (&[u8], &OsStr) {
    let at = clean.iter().rposition(|b| *b == b'/');
    let (parent, name) = at.map_or(([].as_slice(), clean), |at| (&clean[..at], &clean[at + 1..]));
    (parent, OsStr::from_bytes(name))
}

/// Bytes as a path.
pub(super) fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// Stands for a path in a table: sixteen bytes of its BLAKE3, which nobody can make collide.
pub(crate) fn key(clean: &[u8]) -> u128 {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(clean).as_bytes()[..16]);
    u128::from_le_bytes(short)
}

/// What a name means in a layer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning<'a> {
    /// A file of that name.
    File,
    /// The lower layers' file of this name is gone.
    Whiteout(&'a OsStr),
    /// Nothing of the lower layers' directory shows.
    Opaque,
    /// Bookkeeping of AUFS, which docker keeps off the disk as well.
    Nothing,
}

/// Reads the AUFS whiteout convention (OCI image specification, "Whiteouts").
pub(crate) fn meaning(name: &OsStr) -> Meaning<'_> {
    match name.as_bytes() {
        b".wh..wh..opq" => Meaning::Opaque,
        bytes if bytes.starts_with(b".wh..wh.") => Meaning::Nothing,
        bytes => match bytes.strip_prefix(b".wh.") {
            Some(hidden) => Meaning::Whiteout(OsStr::from_bytes(hidden)),
            None => Meaning::File,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_as_docker_cleans_them_and_cannot_climb() {
        for (name, expected) in [
            ("a/b", Some("a/b")),
            ("./a//b/", Some("a/b")),
            ("/etc/x", Some("etc/x")),
            ("a/../b", Some("b")),
            ("/../b", Some("b")),
            ("../b", None),
            ("a/../../b", None),
            (".", Some("")),
            ("", Some("")),
        ] {
            assert_eq!(clean(name.as_bytes()).ok(), expected.map(|e| e.as_bytes().to_vec()), "{name}");
        }
        assert!(clean(&[b'x'; 256]).is_err());
        assert_eq!(meaning(OsStr::new(".wh.x")), Meaning::Whiteout(OsStr::new("x")));
        assert_eq!(meaning(OsStr::new(".whx")), Meaning::File);
        assert_eq!(meaning(OsStr::new(".wh..wh.plnk")), Meaning::Nothing);
    }
}
