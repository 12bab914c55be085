//! `ferry images`: which images and names, in docker's order, and docker's filters.

use jiff::Timestamp;

use super::glob;
use crate::base::{BoxFault, Class, Ctx, Digest, Fault};
use crate::image::Reference;
use crate::store::{Store, StoredImage};

/// Which images are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Images that only others are built on too.
    pub all: bool,
    /// Those with (`true`) or without a name.
    pub dangling: Option<bool>,
    /// Names that match one of these patterns.
    pub references: Vec<String>,
    /// Labels, with or without value; all must be there.
    pub labels: Vec<(String, Option<String>)>,
    /// The same, of which none may be there.
    pub without: Vec<(String, Option<String>)>,
    /// Made before these images.
    pub before: Vec<String>,
    /// Made after these images.
    pub since: Vec<String>,
    /// Made before this time.
    pub until: Option<Timestamp>,
}

/// A filter that docker does not have either.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Not `NAME=VALUE`.
    #[error("invalid filter {0:?}: expected NAME=VALUE")]
    Shape(String),
    /// No such filter.
    #[error("invalid filter {0:?}: there are dangling, label, before, since, until and reference")]
    Name(String),
    /// No such value.
    #[error("invalid filter {0:?}: {1}")]
    Value(String, &'static str),
}

impl Fault for FilterError {
    fn class(&self) -> Class {
        Class::Usage
    }
}

impl Selection {
    /// Adds a filter as docker writes it: `dangling=true`, `label=a=b`.
    pub fn add_filter(&mut self, filter: &str) -> Result<(), FilterError> {
        let (name, value) = filter.split_once('=').ok_or_else(|| FilterError::Shape(filter.to_owned()))?;
        match name.trim().to_ascii_lowercase().as_str() {
            "dangling" => match value {
                "true" | "1" => self.dangling = Some(true),
                "false" | "0" => self.dangling = Some(false),
                _ => return Err(FilterError::Value(filter.to_owned(), "it is true or false")),
            },
            kind @ ("label" | "label!") => {
                let label = value.split_once('=').map(|(key, value)| (key.to_owned(), Some(value.to_owned())));
                let to = if kind == "label" { &mut self.labels } else { &mut self.without };
                to.push(label.unwrap_or_else(|| (value.to_owned(), None)));
            }
            "reference" => self.references.push(value.to_owned()),
            "before" => self.before.push(value.to_owned()),
            "since" => self.since.push(value.to_owned()),
            "until" => self.until = Some(until(filter, value)?),
            _ => return Err(FilterError::Name(filter.to_owned())),
        }
        Ok(())
    }
}

impl Selection {
    /// Whether an image fits as far as the image alone can tell: by its labels and its age.
    pub fn takes(&self, image: &StoredImage) -> bool {
        let labels = image.config.fields().config.as_ref().map(|config| &config.labels);
        let has_label = |(key, value): &(String, Option<String>)| {
            let found = labels.and_then(|labels| labels.get(key));
            found.is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
        };
        let made = image.created();
        self.labels.iter().all(has_label)
            && !self.without.iter().any(has_label)
            && self.until.is_none_or(|until| made.is_none_or(|made| made < until))
    }
}

/// A time, or how long ago.
fn until(filter: &str, value: &str) -> Result<Timestamp, FilterError> {
    if let Ok(time) = value.parse::<Timestamp>() {
        return Ok(time);
    }
    let ago = value.parse::<jiff::SignedDuration>().ok().and_then(|ago| Timestamp::now().checked_sub(ago).ok());
    ago.ok_or_else(|| FilterError::Value(filter.to_owned(), "it is a time, or a duration such as 24h"))
}

/// One line of the list.
#[derive(Debug, Clone)]
pub struct Row {
    /// The image.
    pub image: StoredImage,
    /// The repository; `None` for an image without a name.
    pub repository: Option<String>,
    /// The tag.
    pub tag: Option<String>,
    /// The manifest digest that the repository knows the image by.
    pub digest: Option<Digest>,
}

/// The images that `selection` means, newest first.
pub fn select(store: &Store, selection: &Selection, ctx: &Ctx) -> Result<Vec<StoredImage>, BoxFault> {
    let created = |texts: &[String]| -> Result<Vec<Option<Timestamp>>, BoxFault> {
        texts.iter().map(|text| Ok(store.resolve(text)?.created())).collect()
    };
    let (before, since) = (created(&selection.before)?, created(&selection.since)?);
    let images = store.images(ctx)?;
    let parents: Vec<_> = images.iter().filter_map(|image| image.parent).collect();
    let mut selected = Vec::new();
    for mut image in images {
        let made = image.created();
        let dangling = image.names.is_empty();
        let is_parent = parents.contains(&image.id());
        let hidden = dangling && is_parent && !selection.all;
        let keep = !hidden
            && selection.dangling.is_none_or(|wanted| wanted == (dangling && !is_parent))
            && selection.takes(&image)
            && before.iter().all(|time| made < *time)
            && since.iter().all(|time| made > *time);
        if !keep {
            continue;
        }
        if !selection.references.is_empty() {
            let mut names = Vec::new();
            for name in image.names {
                if matches(&selection.references, &name)? {
                    names.push(name);
                }
            }
            image.names = names;
            if image.names.is_empty() {
                continue;
            }
        }
        selected.push(image);
    }
    Ok(selected)
}

fn matches(patterns: &[String], name: &Reference) -> Result<bool, BoxFault> {
    for pattern in patterns {
        // Docker tries the whole familiar name, then the repository alone.
        if glob::matches(pattern, &name.to_string())? || glob::matches(pattern, &name.familiar_name())? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The lines that `images` give: one a tag, one for an image that has only digests or no name at all.
pub fn rows(images: Vec<StoredImage>) -> Vec<Row> {
    let mut rows = Vec::new();
    for image in images {
        let names = image.names.clone();
        let row = |repository, tag, digest| Row { image: image.clone(), repository, tag, digest };
        // Of several digests in the repository, one of the manifest that the tag came with.
        let digest_of = |tag: &Reference| {
            let here = || names.iter().filter(|name| name.digest().is_some() && name.full_name() == tag.full_name());
            let own = here().find(|name| image.manifest_of(name) == image.manifest_of(tag));
            own.or_else(|| here().next()).and_then(Reference::digest)
        };
        let mut repositories = Vec::new();
        for name in names.iter().filter(|name| name.tag().is_some() && name.digest().is_none()) {
            let repository = name.familiar_name();
            let digest = digest_of(name);
            rows.push(row(Some(repository.clone()), name.tag().map(Into::into), digest));
            repositories.push(repository);
        }
        for name in names.iter().filter(|name| name.digest().is_some()) {
            let repository = name.familiar_name();
            if !repositories.contains(&repository) {
                rows.push(row(Some(repository), None, name.digest()));
            }
        }
        if names.is_empty() {
            rows.push(row(None, None, None));
        }
    }
    rows
}
