//! `repositories.json`: what each name means (moby `reference/store.go`). Names are in docker's short form; a name is
//! `repository:tag` or `repository@digest`, never both.
//!
//! One image may have come with several manifests, each under a name of its own, and docker's file has no place for
//! that: `ferry/names.json` notes which. A note counts while docker's file gives the name to the same image.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::files;
use super::layout::Layout;
use crate::base::{Digest, durable};
use crate::image::{ImageId, Reference};

/// The most the file may hold, in bytes: some 300,000 names.
const LIMIT: u64 = 64 << 20;

/// All names of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    names: BTreeMap<Reference, ImageId>,
    /// Of names that are here alone.
    manifests: BTreeMap<Reference, Digest>,
}

/// The manifest that an image had when it got a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    image: ImageId,
    manifest: Digest,
}

/// Reads the notes; a store without the file has none.
fn notes(layout: &Layout) -> Result<BTreeMap<Reference, Note>, StoreError> {
    let path = layout.name_notes();
    let Some(bytes) = files::read(&path, LIMIT)? else { return Ok(BTreeMap::new()) };
    serde_json::from_slice(&bytes).map_err(|error| StoreError::Damaged { path, reason: error.to_string() })
}

/// Fails when the notes cannot be read.
pub(super) fn check_notes(layout: &Layout) -> Result<(), StoreError> {
    notes(layout).map(|_| ())
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
    /// them, and so does ferry, but neither may lose them silently. Notes that cannot be read count as none, for the
    /// images are whole without them; fsck names them.
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
        let mut noted = notes(layout).unwrap_or_default();
        noted.retain(|name, note| names.get(name) == Some(&note.image));
        let manifests = noted.into_iter().map(|(name, note)| (name, note.manifest)).collect();
        Ok((Self { names, manifests }, unreadable))
    }

    /// Writes the file, durably, and then the notes: a crash in between leaves none for a name that was to get one.
    pub fn write(&self, layout: &Layout) -> Result<(), StoreError> {
        let mut repositories: BTreeMap<String, Option<BTreeMap<String, String>>> = BTreeMap::new();
        for (name, id) in &self.names {
            let names = repositories.entry(name.familiar_name()).or_default().get_or_insert_default();
            names.insert(name.to_string(), id.to_string());
        }
        let path = layout.repositories();
        let bytes = serde_json::to_vec(&Document { repositories: Some(repositories) })
            .map_err(|error| StoreError::Damaged { path: path.clone(), reason: error.to_string() })?;
        durable::write(&path, &bytes, 0o600)?;
        self.write_notes(layout)
    }

    fn write_notes(&self, layout: &Layout) -> Result<(), StoreError> {
        let path = layout.name_notes();
        let note = |(name, manifest): (&Reference, &Digest)| {
            self.names.get(name).map(|image| (name.clone(), Note { image: *image, manifest: *manifest }))
        };
        let notes: BTreeMap<Reference, Note> = self.manifests.iter().filter_map(note).collect();
        if notes.is_empty() {
            return Ok(files::remove(&path)?);
        }
        let bytes = serde_json::to_vec(&notes)
            .map_err(|error| StoreError::Damaged { path: path.clone(), reason: error.to_string() })?;
        if !matches!(files::read(&path, LIMIT), Ok(Some(old)) if old == bytes) {
            durable::write(&path, &bytes, 0o600)?;
        }
        Ok(())
    }

    /// The image a name means.
    pub fn get(&self, name: &Reference) -> Option<ImageId> {
        self.names.get(&canonical(name)).copied()
    }

    /// The manifest that an image came with under this name, as far as it was noted.
    pub fn manifest(&self, name: &Reference) -> Option<Digest> {
        self.manifests.get(&canonical(name)).copied()
    }

    /// All that is noted: names with the images they mean and the manifests these came with.
    pub(super) fn manifests(&self) -> impl Iterator<Item = (&Reference, ImageId, Digest)> {
        self.manifests.iter().filter_map(|(name, manifest)| Some((name, *self.names.get(name)?, *manifest)))
    }

    /// Gives an image a name, and notes the manifest that it came with under it, when that is known; the image that had
    /// the name before, when it was another.
    pub fn set(&mut self, name: &Reference, id: ImageId, manifest: Option<Digest>) -> Option<ImageId> {
        let name = canonical(name);
        let before = self.names.insert(name.clone(), id).filter(|before| *before != id);
        if before.is_some() {
            self.manifests.remove(&name);
        }
        // A name that is the manifest's own digest says so itself.
        if let Some(manifest) = manifest.filter(|manifest| name.digest() != Some(*manifest)) {
            self.manifests.insert(name, manifest);
        }
        before
    }

    /// Takes a name away; whether it was there.
    pub fn remove(&mut self, name: &Reference) -> bool {
        let name = canonical(name);
        self.manifests.remove(&name);
        self.names.remove(&name).is_some()
    }

    /// Drops the note about a name.
    pub(super) fn forget_manifest(&mut self, name: &Reference) {
        self.manifests.remove(&canonical(name));
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
        assert_eq!(references.set(&name("nginx"), id, None), None);
        references.set(&pinned, id, None);
        references.write(&layout).unwrap();
        let text = std::fs::read_to_string(layout.repositories()).unwrap();
        assert_eq!(text, format!(r#"{{"Repositories":{{"nginx":{{"nginx:latest":"{id}","nginx@{id}":"{id}"}}}}}}"#));
        assert_eq!(References::read(&layout).unwrap(), (references.clone(), vec![]));
        assert_eq!(references.get(&pinned), Some(id));
        assert_eq!(references.of(&id)[1], pinned.with_digest(id.0));
        let other = ImageId(Digest::of(b"two"));
        assert_eq!(references.set(&name("nginx:latest"), other, None), Some(id));
        assert!(references.remove(&name("nginx")));
        assert!(!references.remove(&name("nginx")));
    }

    #[test]
    fn the_manifest_of_a_name_is_noted_while_the_name_means_the_same_image() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().to_owned());
        layout.create().unwrap();
        let (one, two) = (ImageId(Digest::of(b"one")), ImageId(Digest::of(b"two")));
        let (first, second) = (Digest::of(b"first"), Digest::of(b"second"));
        let name: Reference = "app:1".parse().unwrap();
        let mut references = References::default();
        references.set(&name, one, Some(first));
        references.set(&name.with_digest(first), one, Some(first));
        references.write(&layout).unwrap();
        assert!(!std::fs::read_to_string(layout.repositories()).unwrap().contains(&format!("app:1\":\"{first}")));
        let (read, _) = References::read(&layout).unwrap();
        assert_eq!(read, references);
        assert_eq!(read.manifests().collect::<Vec<_>>(), [(&name, one, first)]);

        // Without a manifest the note stays, with another it changes, and with another image it goes.
        references.set(&name, one, None);
        assert_eq!(references.manifest(&name), Some(first));
        references.set(&name, one, Some(second));
        assert_eq!(references.manifest(&name), Some(second));
        references.set(&name, two, None);
        assert_eq!(references.manifest(&name), None);
        references.write(&layout).unwrap();
        assert!(!layout.name_notes().exists());

        // A dockerd that gives the name to another image knows nothing of the note.
        references.set(&name, two, Some(second));
        references.write(&layout).unwrap();
        let text = std::fs::read_to_string(layout.repositories()).unwrap();
        std::fs::write(layout.repositories(), text.replace(&two.to_string(), &one.to_string())).unwrap();
        assert_eq!(References::read(&layout).unwrap().0.manifest(&name), None);
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
