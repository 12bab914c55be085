//! The image config: the document whose digest is the image's ID. Kept as raw bytes; parsed for what ferry uses.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::id::{ChainId, DiffId, ImageId};
use super::platform::Platform;
use crate::base::{Class, Digest, Fault, caps};

/// A config and its exact bytes.
#[derive(Debug, Clone)]
pub struct ImageConfig {
    raw: Vec<u8>,
    id: ImageId,
    fields: ConfigFile,
}

/// The config document, docker's extensions included. Unknown fields are ignored here and live on in the raw bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ConfigFile {
    /// Go's name of the processor architecture.
    #[serde(default)]
    pub architecture: String,
    /// The architecture's variant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Go's name of the operating system.
    #[serde(default)]
    pub os: String,
    /// When it was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Docker's comment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// How a container of the image runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<RunConfig>,
    /// The layers.
    #[serde(default)]
    pub rootfs: RootFs,
    /// How it was made, one entry a build step.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
}

/// The layers of a config.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Base first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<DiffId>,
}

/// One build step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// By whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// A message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether the step made no layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_layer: Option<bool>,
}

/// How a container of the image runs (docker's `Config`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs)] // docker's own names, documented there
pub struct RunConfig {
    #[serde(deserialize_with = "null_is_default")]
    pub user: String,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    pub entrypoint: Option<Words>,
    pub cmd: Option<Words>,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "null_is_default")]
    pub working_dir: String,
    #[serde(deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_build: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args_escaped: Option<bool>,
}

/// A command line: a list of words, or, in old images, one string.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Words {
    /// The usual form.
    List(Vec<String>),
    /// Docker reads a bare string as one word.
    One(String),
}

impl Words {
    /// The words.
    pub fn to_vec(&self) -> Vec<String> {
        match self {
            Self::List(words) => words.clone(),
            Self::One(word) => vec![word.clone()],
        }
    }
}

/// A health check; durations in nanoseconds, zero or absent = docker's default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs)] // docker's own names
pub struct Healthcheck {
    #[serde(deserialize_with = "null_is_default")]
    pub test: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_period: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_interval: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<i64>,
}

/// Go writes an empty list or map as null.
fn null_is_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// A config that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, or not of a config's shape.
    #[error("image config {id} is malformed: {source}")]
    Json {
        /// The digest of the bytes at hand.
        id: ImageId,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// More layers than an overlay can stack.
    #[error("image {id} has {layers} layers; more than {} cannot be mounted", caps::LAYERS)]
    Layers {
        /// The image.
        id: ImageId,
        /// How many it has.
        layers: usize,
    },
}

impl Fault for ConfigError {
    fn class(&self) -> Class {
        Class::Malformed
    }
}

impl ImageConfig {
    /// Parses a config.
    pub fn parse(raw: Vec<u8>) -> Result<Self, ConfigError> {
        let id = ImageId(Digest::of(&raw));
        let fields: ConfigFile = serde_json::from_slice(&raw).map_err(|source| ConfigError::Json { id, source })?;
        if fields.rootfs.diff_ids.len() > caps::LAYERS {
            return Err(ConfigError::Layers { id, layers: fields.rootfs.diff_ids.len() });
        }
        Ok(Self { raw, id, fields })
    }

    /// The exact bytes.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The image's ID: the digest of the exact bytes.
    pub fn id(&self) -> ImageId {
        self.id
    }

    /// What the document says.
    pub fn fields(&self) -> &ConfigFile {
        &self.fields
    }

    /// The layers' diff IDs, base first.
    pub fn diff_ids(&self) -> &[DiffId] {
        &self.fields.rootfs.diff_ids
    }

    /// The layers' chain IDs, base first.
    pub fn chain_ids(&self) -> Vec<ChainId> {
        ChainId::chain(self.diff_ids().iter().copied())
    }

    /// The platform it is for; docker reads a missing os as linux.
    pub fn platform(&self) -> Platform {
        let os = if self.fields.os.is_empty() { "linux" } else { &self.fields.os };
        Platform {
            architecture: self.fields.architecture.clone(),
            os: os.to_owned(),
            variant: self.fields.variant.clone(),
        }
    }
}
