//! Manifests, indexes and descriptors, as OCI and docker's schema 2 write them. The raw bytes are what counts: the
//! digest is over them, and they leave ferry as they came.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::platform::Platform;
use crate::base::{Class, Digest, Fault, caps};

/// Media types that ferry reads. What docker and OCI name differently means the same.
pub mod media_type {
    #![allow(missing_docs)]
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
}

/// Names a blob: its kind, digest and size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// One of [`media_type`], or something ferry passes on.
    pub media_type: String,
    /// Of the blob's bytes.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// As written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// In an index: the platform of the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// A descriptor of `bytes`.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// A descriptor without annotations or platform.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self { media_type: media_type.to_owned(), digest, size, annotations: None, platform: None }
    }
}

/// The fields of an image manifest that ferry uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ManifestFields {
    #[serde(default)]
    media_type: Option<String>,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// An image manifest and its exact bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    raw: Vec<u8>,
    digest: Digest,
    media_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// A manifest that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not of a manifest's shape.
    #[error("manifest {digest} is malformed: {source}")]
    Json {
        /// Of the bytes at hand.
        digest: Digest,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// More layers than an overlay can stack.
    #[error("manifest {digest} has {layers} layers; more than {} cannot be mounted", caps::LAYERS)]
    Layers {
        /// Of the bytes at hand.
        digest: Digest,
        /// How many it has.
        layers: usize,
    },
}

impl Fault for ManifestError {
    fn class(&self) -> Class {
        Class::Malformed
    }
}

impl Manifest {
    /// Parses an image manifest; `media_type` is what its descriptor says, for those that do not say it themselves.
    pub fn parse(raw: Vec<u8>, media_type: Option<&str>) -> Result<Self, ManifestError> {
        let digest = Digest::of(&raw);
        let fields: ManifestFields =
            serde_json::from_slice(&raw).map_err(|source| ManifestError::Json { digest, source })?;
        if fields.layers.len() > caps::LAYERS {
            return Err(ManifestError::Layers { digest, layers: fields.layers.len() });
        }
        let media_type = match (fields.media_type, media_type) {
            (Some(own), _) => own,
            (None, Some(described)) => described.to_owned(),
            (None, None) => media_type::OCI_MANIFEST.to_owned(),
        };
        Ok(Self { digest, media_type, config: fields.config, layers: fields.layers, raw })
    }

    /// Makes an OCI manifest. The same input gives the same bytes.
    pub fn build(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Out<'a> {
            schema_version: u8,
            media_type: &'a str,
            config: &'a Descriptor,
            layers: &'a [Descriptor],
        }
        let media_type = media_type::OCI_MANIFEST;
        let out = Out { schema_version: 2, media_type, config: &config, layers: &layers };
        // Strings, numbers and maps with string keys always serialize.
        let raw = serde_json::to_vec(&out).unwrap_or_default();
        Self { digest: Digest::of(&raw), media_type: media_type.to_owned(), config, layers, raw }
    }

    /// The exact bytes.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The digest of the exact bytes: what `name@sha256:…` means.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its media type.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// The image's config.
    pub fn config(&self) -> &Descriptor {
        &self.config
    }

    /// The layers' blobs, base first.
    pub fn layers(&self) -> &[Descriptor] {
        &self.layers
    }

    /// A descriptor of the manifest itself.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(&self.media_type, self.digest, self.raw.len() as u64)
    }
}
