//! Reading the JSON documents of an archive within their limits, and proving them against the digests that name them.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::container::Container;
use super::entries::Entry;
use super::error::ArchiveError;
use crate::base::{Digest, caps};
use crate::image::{ImageConfig, Reference};

/// A list that is refused while it is read once it has more than `MAX` items; null is an empty one, as Go writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capped<T, const MAX: usize>(pub Vec<T>);

impl<T, const MAX: usize> Default for Capped<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Capped<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Items<T, MAX> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX} items")
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<Vec<T>, E> {
                Ok(Vec::new())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    if items.len() == MAX {
                        return Err(serde::de::Error::custom(format_args!("a list has more than {MAX} items")));
                    }
                    items.push(item);
                }
                Ok(items)
            }
        }
        deserializer.deserialize_any(Items::<T, MAX>(PhantomData)).map(Self)
    }
}

/// Parses a document.
pub fn parse<T: DeserializeOwned>(origin: &str, entry: &str, bytes: &[u8]) -> Result<T, ArchiveError> {
    serde_json::from_slice(bytes).map_err(|source| ArchiveError::Json {
        origin: origin.to_owned(),
        entry: super::entries::shorten(entry),
        source,
    })
}

/// Finds what a document refers to.
pub fn require(container: &dyn Container, path: &str, needed_by: &str) -> Result<Entry, ArchiveError> {
    container.find(path)?.ok_or_else(|| ArchiveError::Missing {
        origin: container.origin().to_owned(),
        entry: super::entries::shorten(path),
        needed_by: needed_by.to_owned(),
    })
}

/// Proves a document's bytes.
pub fn check_digest(
    container: &dyn Container,
    entry: &str,
    bytes: &[u8],
    expected: Digest,
) -> Result<(), ArchiveError> {
    let found = Digest::of(bytes);
    if found == expected {
        return Ok(());
    }
    Err(ArchiveError::Digest { origin: container.origin().to_owned(), entry: entry.to_owned(), expected, found })
}

/// Reads an image's config; `expected` is its digest where something states it.
pub fn config(container: &dyn Container, entry: &Entry, expected: Option<Digest>) -> Result<ImageConfig, ArchiveError> {
    let bytes = container.read(entry, caps::CONFIG_BYTES)?;
    if let Some(expected) = expected {
        check_digest(container, &entry.path, &bytes, expected)?;
    }
    ImageConfig::parse(bytes).map_err(|source| ArchiveError::Config { origin: container.origin().to_owned(), source })
}

/// Reads a name that an archive gives to an image: a tag, a digest, or both, which are two names of it.
pub fn names(container: &dyn Container, entry: &str, text: &str) -> Result<Vec<Reference>, ArchiveError> {
    match text.parse::<Reference>() {
        Ok(name) => Ok(name.or_latest().claims()),
        Err(source) => {
            Err(ArchiveError::Name { origin: container.origin().to_owned(), entry: entry.to_owned(), source })
        }
    }
}
