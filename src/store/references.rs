//! `repositories.json`: what each name means (moby `reference/store.go`). Names are in docker's short form; a name is
//! `repository:tag` or `repository@digest`, never both.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::files;
use super::layout::Layout;
use crate::base::durable;
use crate::image::{ImageId, Reference};

/// The most the file may hold, in bytes: some 300,000 names.
const LIMIT: u64 = 64 << 20;

/// All names of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    names: BTreeMap<Reference, ImageId>,
}

/// The document. Go sorts the keys of maps as well.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    #[serde(default)]
    repositories: Option<BTreeMap<String, Option<BTreeMap<String, String>>>>,
}

/// The form a name is kept in: with a digest it loses its tag, with neither it gets `latest`.
pub fn canonical(name: &Reference) -> Reference {
    match name.digest() {
        Some(digest) => name.with_digest(digest),
        None => name.clone().or_latest(),
    }
}

impl References {
    /// Reads the file; a store without one has no names. Names that cannot be read are given apart: dockerd ignores
    /// them, and so does ferry, but neither may lose them silently.
    pub fn read(layout: &Layout) -> Result<(Self, Vec<String>), StoreError> {
        let path = layout.repositories();
        let Some(bytes) = files::read(&path, LIMIT)? else { return Ok(Default::default()) };
        let document: Document =
            serde_json::from_slice(&bytes).map_err(|error| StoreError::Damaged { path, reason: error.to_string() })?;
        let (mut names, mut unreadable) = (BTreeMap::new(), Vec::new());
        for (text, id) in document.repositories.into_iter().flatten().flat_map(|(_, names)| names).flatten() {
            match (text.parse::<Reference>(), id.parse()) {
                (Ok(name), Ok(id)) => {
                    names.insert(canonical(&name), id);
                }
                _ => unreadable.push(text),
            }
        }
        Ok((Self { names }, unreadable))
    }

    /// Writes the file, durably.
    pub fn write(&self, layout: &Layout) -> Result<(), StoreError> {
        let mut repositories: BTreeMap<String, Option<BTreeMap<String, String>>> = BTreeMap::new();
        for (name, id) in &self.names {
            let names = repositories.entry(name.familiar_name()).or_default().get_or_insert_default();
            names.insert(name.to_string(), id.to_string());
        }
        let path = layout.repositories();
        let bytes = serde_json::to_vec(&Document { repositories: Some(repositories) })
            .map_err(|error| StoreError::Damaged { path: path.clone(), reason: error.to_string() })?;
        Ok(durable::write(&path, &bytes, 0o600)?)
    }

    /// The image a name means.
    pub fn get(&self, name: &Reference) -> Option<ImageId> {
        self.names.get(&canonical(name)).copied()
    }

    /// Gives an image a name; the image that had it before, when it was another.
    pub fn set(&mut self, name: &Reference, id: ImageId) -> Option<ImageId> {
        self.names.insert(canonical(name), id).filter(|before| *before != id)
    }

    /// Takes a name away; whether it was there.
    pub fn remove(&mut self, name: &Reference) -> bool {
        self.names.remove(&canonical(name)).is_some()
    }

    /// All names with their images, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Reference, ImageId)> {
        self.names.iter().map(|(name, id)| (name, *id))
    }

    /// The names of one image: tags before digests, each sorted.
    pub fn of(&self, id: &ImageId) -> Vec<Reference> {
        let mut names: Vec<Reference> =
            self.iter().filter(|(_, named)| named == id).map(|(name, _)| name.clone()).collect();
        names.sort_by_key(|name| name.digest().is_some());
        names
    }

    /// The names of every image, as [`References::of`] orders them.
    pub fn by_image(&self) -> BTreeMap<ImageId, Vec<Reference>> {
        let mut by_image: BTreeMap<ImageId, Vec<Reference>> = BTreeMap::new();
        for (name, id) in self.iter() {
            by_image.entry(id).or_default().push(name.clone());
        }
        for names in by_image.values_mut() {
            names.sort_by_key(|name| name.digest().is_some());
        }
        by_image
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Digest;

    #[test]
    fn names_are_written_as_dockerd_writes_them() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().to_owned());
        layout.create().unwrap();
        let (mut references, _) = References::read(&layout).unwrap();
        let id = ImageId(Digest::of(b"one"));
        let name = |text: &str| text.parse::<Reference>().unwrap();
        let pinned = name(&format!("nginx:1@{}", id));
        assert_eq!(references.set(&name("nginx"), id), None);
        references.set(&pinned, id);
        references.write(&layout).unwrap();
        let text = std::fs::read_to_string(layout.repositories()).unwrap();
        assert_eq!(text, format!(r#"{{"Repositories":{{"nginx":{{"nginx:latest":"{id}","nginx@{id}":"{id}"}}}}}}"#));
        assert_eq!(References::read(&layout).unwrap(), (references.clone(), vec![]));
        assert_eq!(references.get(&pinned), Some(id));
        assert_eq!(references.of(&id)[1], pinned.with_digest(id.0));
        let other = ImageId(Digest::of(b"two"));
        assert_eq!(references.set(&name("nginx:latest"), other), Some(id));
        assert!(references.remove(&name("nginx")));
        assert!(!references.remove(&name("nginx")));
    }

    #[test]
    fn a_file_of_dockers_with_nulls_and_strange_names_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().to_owned());
        layout.create().unwrap();
        let id = ImageId(Digest::of(b"one"));
        for (text, names, strange) in [
            (r#"{"Repositories":{}}"#.to_owned(), 0, 0),
            (r#"{"Repositories":null}"#.to_owned(), 0, 0),
            ("{}".to_owned(), 0, 0),
            (format!(r#"{{"Repositories":{{"a":null,"b":{{"b:1":"{id}","B:":"{id}","b:2":"x"}}}}}}"#), 1, 2),
        ] {
            std::fs::write(layout.repositories(), &text).unwrap();
            let (references, unreadable) = References::read(&layout).unwrap();
            assert_eq!((references.iter().count(), unreadable.len()), (names, strange), "{text}");
        }
        std::fs::write(layout.repositories(), "{").unwrap();
        assert!(matches!(References::read(&layout), Err(StoreError::Damaged { .. })));
    }
}
