//! `ferry import`: a tar of a root file system becomes an image of one layer.

use std::fs::File;
use std::io::{Cursor, Read};

use jiff::Timestamp;

use crate::archive::ArchiveError;
use crate::base::{BoxFault, Ctx};
use crate::image::config::{ConfigFile, History, RootFs, RunConfig};
use crate::image::{ImageConfig, ImageId, Platform, Reference, change};
use crate::layer::compression::{self, DecodeLimits};
use crate::runtime::events;
use crate::store::{Conflict, Store};

/// What is imported and how.
pub struct ImportRequest {
    /// The tar, plain or compressed.
    pub input: File,
    /// What it is, for messages.
    pub origin: String,
    /// The image's name.
    pub name: Option<Reference>,
    /// Instructions of a Dockerfile.
    pub changes: Vec<String>,
    /// A message for the history.
    pub message: Option<String>,
    /// The platform; this host's when absent.
    pub platform: Option<Platform>,
    /// What a compressed tar may demand.
    pub limits: DecodeLimits,
    /// When the image is said to be made.
    pub created: Timestamp,
}

/// Imports; the new image's ID.
pub fn import(store: &Store, request: ImportRequest, ctx: &Ctx) -> Result<ImageId, BoxFault> {
    let mut run_config = RunConfig::default();
    change::apply(&mut run_config, &request.changes)?;
    let fail = |source| ArchiveError::Read { origin: request.origin.clone(), entry: "the archive".into(), source };
    let mut input = request.input;
    let mut head = Vec::new();
    input.by_ref().take(compression::MAGIC_BYTES as u64).read_to_end(&mut head).map_err(fail)?;
    let compression = compression::detect(&head);
    let raw = Cursor::new(head).chain(std::io::BufReader::with_capacity(1 << 20, input));
    let mut tar = compression.decoder(Box::new(raw), &request.limits).map_err(fail)?;

    let transaction = store.begin(ctx)?;
    let task = ctx.begin("Importing", request.origin.clone(), None);
    let layer = transaction.add_layer(None, None, &mut *tar, ctx)?;
    task.complete();
    let platform = request.platform.unwrap_or_else(Platform::host);
    let created = Some(request.created.to_string());
    let comment = request.message.unwrap_or_else(|| format!("Imported from {}", request.origin));
    let file = ConfigFile {
        architecture: platform.architecture,
        variant: platform.variant,
        os: platform.os,
        created: created.clone(),
        comment: Some(comment.clone()),
        config: Some(run_config),
        rootfs: RootFs { kind: "layers".into(), diff_ids: vec![layer.diff_id] },
        history: vec![History { created, comment: Some(comment), ..History::default() }],
        ..ConfigFile::default()
    };
    // A structure of strings, numbers and maps with string keys always serializes.
    let config = ImageConfig::parse(serde_json::to_vec(&file).unwrap_or_default())?;
    let id = config.id();
    let names: Vec<Reference> = request.name.into_iter().collect();
    transaction.add_image(config, &names, None)?;
    transaction.commit(Conflict::Replace, ctx)?;
    let text = id.to_string();
    for name in &names {
        events::record_image(store.root(), "tag", &text, &name.to_string());
    }
    events::record_image(store.root(), "import", &text, &text);
    Ok(id)
}
