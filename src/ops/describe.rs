//! `ferry inspect` of a bundle: what it is, and which layer is kept how and what that costs.

use serde_json::{Value, json};

use crate::base::BoxFault;
use crate::bundle::BundleSource;
use crate::bundle::index::{BaseKind, LayerKind};
use crate::bundle::outline::costs;
use crate::bundle::seal::SignedBy;
use crate::image::{Image, ImageSource};

/// What is known of the volumes that a bundle lies in.
#[derive(Debug, Clone, Default)]
pub struct Carried {
    /// The set's ID.
    pub set: String,
    /// Its root hash.
    pub root: String,
    /// Volumes of data, and of parity.
    pub volumes: (u32, u32),
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// How many signatures there are.
    pub signatures: usize,
    /// Those that were checked.
    pub signed_by: Vec<SignedBy>,
}

/// A bundle as a document.
pub fn describe(source: &BundleSource, carried: &Carried) -> Result<Value, BoxFault> {
    let bundle = source.bundle();
    let index = bundle.index();
    let signed: Vec<Value> = carried
        .signed_by
        .iter()
        .map(|signer| json!({"Principals": signer.principals, "Fingerprint": signer.fingerprint}))
        .collect();
    let bases = index.bases.iter().map(|base| {
        let kind = match base.kind {
            BaseKind::Bundle => "bundle",
            BaseKind::Inventory => "inventory",
        };
        json!({"Kind": kind, "Label": base.label, "Identity": hex::encode(base.identity)})
    });
    let layers = index.layers.iter().zip(costs(source)?).map(|(layer, cost)| {
        let kept = match layer.kind {
            LayerKind::Split { .. } if layer.replay.is_some() => "replay",
            LayerKind::Split { .. } => "split",
            LayerKind::Blob { .. } => "blob",
            LayerKind::Base => "base",
        };
        let original = layer.original.as_ref().map(
            |(media_type, digest, size)| json!({"MediaType": media_type, "Digest": digest.to_string(), "Size": size}),
        );
        json!({
            "DiffId": layer.diff_id.to_string(),
            "Size": layer.size,
            "Kept": kept,
            "Original": original,
            "Replay": layer.replay.map(|replay| replay.to_string()),
            "Stored": {"Recipe": cost.recipe, "Corrections": cost.corrections, "Own": cost.own, "Shared": cost.shared},
            "InBase": cost.base,
        })
    });
    let objects: u64 = index.objects.iter().map(|size| u64::from(*size)).sum();
    Ok(json!({
        "Bundle": bundle.origin(),
        "Identity": hex::encode(bundle.identity()),
        "Writer": index.writer,
        "Size": bundle.size(),
        "Set": carried.set,
        "Root": format!("blake3:{}", carried.root),
        "Volumes": {"Data": carried.volumes.0, "Parity": carried.volumes.1},
        "Encrypted": carried.encrypted,
        "Signatures": carried.signatures,
        "SignedBy": signed,
        "Contents": index.contents.ids.len(),
        "ContentBytes": objects,
        "Frames": index.frames.len(),
        "Bases": bases.collect::<Vec<_>>(),
        "BaseContents": index.base_contents.ids.len(),
        "Images": source.images().iter().map(image).collect::<Vec<_>>(),
        "Layers": layers.collect::<Vec<_>>(),
    }))
}

fn image(image: &Image) -> Value {
    let manifest = image.manifest.as_ref().map(|manifest| manifest.digest().to_string());
    json!({
        "Id": image.config.id().to_string(),
        "RepoTags": image.names.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "Manifest": manifest,
        "Platform": image.config.platform().to_string(),
        "Layers": image.layers.iter().map(|layer| layer.diff_id.to_string()).collect::<Vec<_>>(),
    })
}
