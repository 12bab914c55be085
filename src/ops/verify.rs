//! `ferry verify`: whether a bundle is whole, whose it is, and with `deep` whether its images are what they claim.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::extract::Stoppable;
use super::load::BadInput;
use crate::base::verify::VerifyingReader;
use crate::base::{AtPath, BoxFault, Class, Ctx, Digest};
use crate::bundle::BaseContents;
use crate::bundle::carry::{self, Access};
use crate::bundle::index::blob_of;
use crate::bundle::seal::SignedBy;
use crate::bundle::volume::{Report, Root, SetId, VolumeSet, check};
use crate::image::{DiffId, Form, ImageSource, Layer};
use crate::layer::apply::clean_name;
use crate::layer::tar::{self, Entry, Handler, Kind};

/// What a verify found.
pub struct Verified {
    /// The set's ID.
    pub set: SetId,
    /// Its root hash.
    pub root: Root,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// Signatures it carries, as blobs.
    pub signatures: Vec<Vec<u8>>,
    /// What they are over.
    pub statement: String,
    /// Those that count.
    pub signed_by: Vec<SignedBy>,
    /// Volume by volume.
    pub report: Report,
    /// What was proven, with `deep`.
    pub proven: Option<Proven>,
    /// Why nothing was, though it was to be.
    pub unproven: Option<BoxFault>,
}

/// What was compared with its digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proven {
    /// Images whose documents agree.
    pub images: usize,
    /// Layers that the bundle holds.
    pub layers: usize,
    /// Layers that a thin bundle leaves out and its base has. They are the store's, and `ferry fsck` proves them.
    pub in_base: usize,
}

/// Gives what a thin bundle is read with.
pub type OpenBase<'a> = dyn Fn() -> Result<Arc<dyn BaseContents>, BoxFault> + 'a;

/// Checks every byte of a bundle, and who signed it; with `deep` also every layer against its digests, which needs the
/// key of an encrypted one and the base of a thin one. A signature that does not count is an error; damage is in the
/// report, and why a layer cannot be proven in the result.
pub fn verify(
    paths: &[PathBuf],
    access: &Access,
    deep: Option<&OpenBase<'_>>,
    ctx: &Ctx,
) -> Result<Verified, BoxFault> {
    let set = VolumeSet::open(paths)?;
    let origin = set.near().display().to_string();
    let mut signed_by: Vec<SignedBy> = Vec::new();
    for signer in carry::pass(&set, &access.gates, &origin)?.into_iter().flatten() {
        if !signed_by.contains(&signer) {
            signed_by.push(signer);
        }
    }
    let report = check(&set, access.budget, ctx)?.report;
    let deep = deep.filter(|_| report.lost_blocks == 0);
    // A layer knows what is wrong with it, not where it came from.
    let named = |source: BoxFault| match source.class() {
        Class::Malformed | Class::Integrity if !source.to_string().contains(&origin) => {
            BadInput { origin: origin.clone(), source }.into()
        }
        _ => source,
    };
    let (proven, unproven) = match deep.map(|base| prove(paths, access, base, ctx)).transpose() {
        Ok(proven) => (proven, None),
        Err(fault) if fault.class() == Class::Interrupted => return Err(fault),
        Err(fault) => (None, Some(named(fault))),
    };
    Ok(Verified {
        set: set.id(),
        root: set.root(),
        encrypted: set.encrypted(),
        signatures: set.signatures().to_vec(),
        statement: set.statement(),
        signed_by,
        report,
        proven,
        unproven,
    })
}

/// Reads every layer and compares it with its diff ID and with the digest of the blob it came as. What would be refused
/// in a load for what it is, and not for what is there already, is an error here too.
fn prove(paths: &[PathBuf], access: &Access, base: &OpenBase<'_>, ctx: &Ctx) -> Result<Proven, BoxFault> {
    let mut source = carry::open(VolumeSet::open(paths)?, access, ctx)?.source;
    if source.bundle().index().is_thin() {
        source = source.with_base(base()?)?;
    }
    source.check_manifests()?;
    let mut in_base: BTreeSet<DiffId> = BTreeSet::new();
    let mut seen: BTreeSet<(DiffId, Digest)> = BTreeSet::new();
    let mut wanted: Vec<(Layer, Form)> = Vec::new();
    for layer in source.images().iter().flat_map(|image| &image.layers) {
        if source.leaves_out(&layer.diff_id) {
            in_base.insert(layer.diff_id);
            continue;
        }
        // Each blob of a layer is proven to be its tar.
        if seen.insert((layer.diff_id, blob_of(layer))) {
            wanted.push((layer.clone(), Form::Tar));
            wanted.extend(layer.original.is_some().then(|| (layer.clone(), Form::Original)));
        }
    }
    let layers = seen.iter().map(|(diff_id, _)| diff_id).collect::<BTreeSet<_>>().len();
    let threads = access.budget.threads;
    // Which form a visit is for is told by order in each thread's own list: the visitor is given the layer alone.
    for form in [Form::Tar, Form::Original] {
        let these: Vec<(Layer, Form)> = wanted.iter().filter(|(_, f)| *f == form).cloned().collect();
        source.visit_layers(&these, threads, ctx, &|layer, reader| {
            let (digest, size) = match (form, &layer.original) {
                (Form::Original, Some(original)) => (original.digest, Some(original.size)),
                _ => (layer.diff_id.0, layer.size),
            };
            let mut reader = VerifyingReader::new(Stoppable { inner: reader, ctx }, digest, size);
            let named = match form {
                Form::Tar => tar::scan(&mut reader, &mut Names),
                Form::Original => Ok(()),
            };
            // Wrong bytes are a better reason than what was made of them.
            io::copy(&mut reader, &mut io::sink()).at("prove", digest.to_string())?;
            named
        })?;
    }
    Ok(Proven { images: source.images().len(), layers, in_base: in_base.len() })
}

/// Refuses names that lead out of the layer.
struct Names;

impl Handler for Names {
    fn raw(&mut self, _: &[u8]) -> Result<(), BoxFault> {
        Ok(())
    }

    fn entry(&mut self, entry: Entry, _: u64) -> Result<(), BoxFault> {
        clean_name(&entry.path)?;
        if entry.kind == Kind::HardLink {
            clean_name(&entry.link)?;
        }
        Ok(())
    }

    fn data(&mut self, _: &[u8]) -> Result<(), BoxFault> {
        Ok(())
    }

    fn end(&mut self) -> Result<(), BoxFault> {
        Ok(())
    }
}
