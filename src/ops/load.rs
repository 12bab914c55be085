//! `ferry load`: from an archive or a bundle into the store.

use std::path::PathBuf;
use std::sync::Arc;

use super::open::{self, KnownBundle, OpenError, Opened};
use crate::archive::{Input, OpenOptions};
use crate::base::{BoxFault, Class, Ctx, Fault};
use crate::bundle::carry::Access;
use crate::image::{Image, ImageSink, Reference};
use crate::runtime::events;
use crate::store::{LoadOptions, LoadReport, Store};
use crate::transfer::ground::StoreBase;

/// Where images come from.
pub enum From {
    /// An archive or a bundle.
    One(Input),
    /// Volumes of one bundle.
    Volumes(Vec<PathBuf>),
}

/// What is loaded and how.
pub struct LoadRequest {
    /// From where.
    pub input: From,
    /// How it is read.
    pub open: OpenOptions,
    /// What opens it, and what it must be to come in.
    pub access: Access,
    /// How it is taken in.
    pub options: LoadOptions,
    /// A name to give to the one image there is.
    pub name: Option<Reference>,
}

/// What was loaded.
pub struct Loaded {
    /// What the store did.
    pub report: LoadReport,
    /// The images, with the names they came with.
    pub images: Vec<Image>,
    /// The bundle they were in.
    pub bundle: Option<KnownBundle>,
}

/// What is wrong with an input, with its name.
#[derive(Debug, thiserror::Error)]
#[error("{origin}: {source}")]
pub(super) struct BadInput {
    pub(super) origin: String,
    pub(super) source: BoxFault,
}

impl Fault for BadInput {
    fn class(&self) -> Class {
        self.source.class()
    }
}

/// Loads all images of an archive, or none.
pub fn load(store: &Store, mut request: LoadRequest, ctx: &Ctx) -> Result<Loaded, BoxFault> {
    // A thin bundle is read with what the store has.
    request.access.base = Some(Arc::new(StoreBase::new(store.clone())));
    request.access.spare = matches!(request.input, From::One(Input::At(..)));
    let Opened { source, bundle } = match request.input {
        From::One(input) => open::open_known(input, &request.open, &request.access, ctx)?,
        From::Volumes(paths) => open::open_volumes(&paths, &request.open, &request.access, ctx)?,
    };
    let mut images: Vec<Image> = source.images().to_vec();
    if let Some(name) = request.name {
        let [image] = &mut images[..] else {
            return Err(OpenError::OneName { name, origin: source.origin(), images: images.len() }.into());
        };
        if !image.names.contains(&name) {
            image.names.push(name);
        }
    }
    let origin = source.origin();
    // A layer knows what is wrong with it, not where it came from.
    let name_it = |source: BoxFault| match source.class() {
        Class::Malformed | Class::Integrity if !source.to_string().contains(&origin) => {
            BadInput { origin: origin.clone(), source }.into()
        }
        _ => source,
    };
    let planned_only = request.options.dry_run;
    let report = store.sink(request.options).take(&*source, &images, ctx).map_err(name_it)?;
    for image in report.plan.images.iter().filter(|_| !planned_only) {
        let id = image.id.to_string();
        events::record_image(store.root(), "load", &id, &id);
    }
    Ok(Loaded { report, images, bundle })
}
