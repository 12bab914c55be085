//! Paths in an image's file system that is not unpacked: links are followed as a process in it would see them.

use std::collections::VecDeque;

use crate::bundle::tree::Tree;
use crate::layer::tar::Kind;

/// The most links that are followed, as in Linux.
const LINKS: usize = 40;

/// The path of the file that `path` leads to, without leading slash; empty for the root. `None` when a link leads
/// nowhere or in circles.
pub fn resolve(tree: &Tree, path: &[u8]) -> Option<Vec<u8>> {
    let components = |path: &[u8]| -> VecDeque<Vec<u8>> { path.split(|b| *b == b'/').map(<[u8]>::to_vec).collect() };
    let mut left = components(path);
    let mut real: Vec<u8> = Vec::new();
    let mut links = 0;
    while let Some(component) = left.pop_front() {
        match &component[..] {
            b"" | b"." => continue,
            b".." => {
                real.truncate(real.iter().rposition(|b| *b == b'/').unwrap_or(0));
                continue;
            }
            _ => {}
        }
        let parent = real.len();
        if !real.is_empty() {
            real.push(b'/');
        }
        real.extend_from_slice(&component);
        let Some((_, file)) = tree.files.get(&real) else { continue };
        match file.entry.kind {
            Kind::Symlink => {
                real.truncate(if file.entry.link.starts_with(b"/") { 0 } else { parent });
                let mut target = components(&file.entry.link);
                target.append(&mut left);
                left = target;
            }
            // Another name of a file: from the root of the layer.
            Kind::HardLink => {
                real.clear();
                let mut target = components(&file.entry.link);
                target.append(&mut left);
                left = target;
            }
            _ => continue,
        }
        links += 1;
        if links > LINKS {
            return None;
        }
    }
    Some(real)
}
