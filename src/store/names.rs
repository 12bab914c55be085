//! What becomes of names when images come in.

use std::collections::BTreeMap;

use super::References;
use super::error::StoreError;
use crate::base::Ctx;
use crate::image::{ImageId, Reference};

/// What to do with a name that another image has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Conflict {
    /// The new image gets the name; the other stays, without it. Docker's way.
    #[default]
    Replace,
    /// The other image keeps the name.
    Keep,
    /// Nothing is done at all.
    Fail,
}

/// A name and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameChange {
    /// The name.
    pub name: Reference,
    /// The image that had it.
    pub before: Option<ImageId>,
    /// The image it was to be given to.
    pub wanted: ImageId,
    /// Whether it was.
    pub applied: bool,
}

/// What becomes of each name. Two images of one transaction that claim one name are an error, whatever the policy; so
/// is a digest reference that another image has, for a digest means one image forever.
pub(super) fn decide<'a>(
    references: &References,
    wanted: impl IntoIterator<Item = (&'a Reference, ImageId)>,
    conflict: Conflict,
) -> Result<Vec<NameChange>, StoreError> {
    let mut given: BTreeMap<&Reference, ImageId> = BTreeMap::new();
    let mut changes = Vec::new();
    for (name, wanted) in wanted {
        match given.insert(name, wanted) {
            Some(other) if other != wanted => {
                return Err(StoreError::NameTwice { name: Box::new(name.clone()), one: other, other: wanted });
            }
            Some(_) => continue,
            None => {}
        }
        let before = references.get(name);
        let taken = before.filter(|before| *before != wanted);
        if let Some(current) = taken
            && (conflict == Conflict::Fail || name.digest().is_some())
        {
            return Err(StoreError::NameTaken { name: Box::new(name.clone()), current, wanted });
        }
        let applied = taken.is_none() || conflict == Conflict::Replace;
        changes.push(NameChange { name: name.clone(), before, wanted, applied });
    }
    Ok(changes)
}

/// Refuses names that dockerd refuses to store.
pub(super) fn check(name: &Reference) -> Result<(), StoreError> {
    // `sha256:abc` could be meant as an ID.
    if name.familiar_name() == "sha256" { Err(StoreError::BadName(Box::new(name.clone()))) } else { Ok(()) }
}

/// Writing the file of names loses those that cannot be read; dockerd loses them as well.
pub(super) fn warn_unreadable(names: &[String], ctx: &Ctx) {
    for name in names {
        ctx.warn(format!("{name:?} in repositories.json is not a name and is dropped"));
    }
}
