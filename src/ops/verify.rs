//! `ferry verify`: whether a bundle is whole, whose it is, and with `deep` whether its images are what they claim.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use crate::base::verify::VerifyingReader;
use crate::base::{BoxFault, Ctx, Digest};
use crate::bundle::carry::{self, Access};
use crate::bundle::seal::SignedBy;
use crate::bundle::volume::{Report, Root, SetId, VolumeSet, check};
use crate::image::{DiffId, Form, ImageSource, Layer};

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
    /// Images and layers that were proven, with `deep`.
    pub proven: Option<(usize, usize)>,
}

/// Checks every byte of a bundle, and who signed it; with `deep` also every layer against its digests, which needs the
/// key of an encrypted one. A signature that does not count is an error, damage is in the report.
pub fn verify(paths: &[PathBuf], access: &Access, deep: bool, ctx: &Ctx) -> Result<Verified, BoxFault> {
    let set = VolumeSet::open(paths)?;
    let origin = set.near().display().to_string();
    let mut signed_by: Vec<SignedBy> = Vec::new();
    for signer in carry::pass(&set, &access.gates, &origin)?.into_iter().flatten() {
        if !signed_by.contains(&signer) {
            signed_by.push(signer);
        }
    }
    let report = check(&set, access.budget, ctx)?.report;
    let proven = if deep && report.lost_blocks == 0 { Some(prove(paths, access, ctx)?) } else { None };
    Ok(Verified {
        set: set.id(),
        root: set.root(),
        encrypted: set.encrypted(),
        signatures: set.signatures().to_vec(),
        statement: set.statement(),
        signed_by,
        report,
        proven,
    })
}

/// Reads every layer and compares it with its diff ID and with the digest of the blob it came as.
fn prove(paths: &[PathBuf], access: &Access, ctx: &Ctx) -> Result<(usize, usize), BoxFault> {
    let opened = carry::open(VolumeSet::open(paths)?, access, ctx)?;
    let source = &opened.source;
    let mut seen: BTreeSet<(DiffId, Option<Digest>)> = BTreeSet::new();
    let mut wanted: Vec<(Layer, Form)> = Vec::new();
    for layer in source.images().iter().flat_map(|image| &image.layers) {
        if seen.insert((layer.diff_id, None)) {
            wanted.push((layer.clone(), Form::Tar));
        }
        if let Some(original) = &layer.original
            && seen.insert((layer.diff_id, Some(original.digest)))
        {
            wanted.push((layer.clone(), Form::Original));
        }
    }
    let layers = seen.iter().filter(|(_, original)| original.is_none()).count();
    let threads = access.budget.threads;
    // Which form a visit is for is told by order in each thread's own list: the visitor is given the layer alone.
    for form in [Form::Tar, Form::Original] {
        let these: Vec<(Layer, Form)> = wanted.iter().filter(|(_, f)| *f == form).cloned().collect();
        source.visit_layers(&these, threads, ctx, &|layer, reader| {
            let (digest, size) = match (form, &layer.original) {
                (Form::Original, Some(original)) => (original.digest, Some(original.size)),
                _ => (layer.diff_id.0, layer.size),
            };
            let mut reader = VerifyingReader::new(reader, digest, size);
            let place =
                |source| crate::base::PathError { action: "prove", path: PathBuf::from(digest.to_string()), source };
            io::copy(&mut reader, &mut io::sink()).map_err(place)?;
            Ok(())
        })?;
    }
    Ok((source.images().len(), layers))
}
