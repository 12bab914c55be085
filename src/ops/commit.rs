//! `ferry commit`: what a container changed becomes a layer, and with it an image.

use std::io::Write;

use jiff::Timestamp;

use crate::base::{BoxFault, Class, Ctx, Fault};
use crate::image::config::{History, RunConfig, Words};
use crate::image::{ImageConfig, ImageId, Reference, change};
use crate::layer::diff::{self, DiffOptions, Tree};
use crate::runtime::container::{Config, ContainerDir, Status};
use crate::runtime::{events, lifecycle, start};
use crate::store::{Conflict, Store};
use crate::sys::dir::Dir;

/// What is committed and how.
#[derive(Debug)]
pub struct CommitRequest {
    /// The image's name.
    pub name: Option<Reference>,
    /// Who did it.
    pub author: Option<String>,
    /// A message for the history.
    pub message: Option<String>,
    /// Instructions of a Dockerfile.
    pub changes: Vec<String>,
    /// Whether a running container is frozen meanwhile.
    pub pause: bool,
    /// When the image is said to be made.
    pub created: Timestamp,
    /// Later times of files become this one, in seconds since 1970.
    pub latest: Option<i64>,
}

/// The layer could not be handed over.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the layer: {0}")]
struct LayerFailed(String);

impl Fault for LayerFailed {
    fn class(&self) -> Class {
        Class::System
    }
}

/// Thaws a container when it goes.
struct Frozen<'a>(&'a ContainerDir);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        // It may have ended meanwhile.
        let _ = lifecycle::pause(self.0, false);
    }
}

/// Commits; the new image's ID.
pub fn commit(store: &Store, dir: &ContainerDir, request: CommitRequest, ctx: &Ctx) -> Result<ImageId, BoxFault> {
    let container = dir.container()?;
    let layer = store.rw_layer(dir.id())?;
    let base = store.image(&container.image)?;
    let frozen = match dir.state()?.status {
        Status::Running if request.pause && start::cgroup(&container).exists() => {
            lifecycle::pause(dir, true)?;
            Some(Frozen(dir))
        }
        // Signals are no way to freeze: the program sees them, and what it starts meanwhile goes on.
        Status::Running if request.pause => {
            ctx.warn(format!(
                "container {} is not paused while it is committed: it has no control group, for this user may make none; stop it \
                 first if its files must not change meanwhile, or say --pause=false",
                container.name
            ));
            None
        }
        _ => None,
    };
    let transaction = store.begin(ctx)?;
    let upper = [Dir::open(&layer.upper)?];
    let owners = store.owners(layer.parent)?;
    let options = DiffOptions {
        tree: Tree::Upper,
        userxattr: store.options().userxattr,
        latest: request.latest,
        owners: owners.as_ref(),
    };
    let (mut reader, writer) = std::io::pipe().map_err(|error| LayerFailed(error.to_string()))?;
    let record = lifecycle::reading(dir, "commit", || {
        std::thread::scope(|scope| {
            let written = scope.spawn(|| -> Result<(), BoxFault> {
                let mut writer = std::io::BufWriter::with_capacity(1 << 18, writer);
                diff::write(&upper, &mut writer, &options, ctx)?;
                writer.flush().map_err(|error| LayerFailed(error.to_string()))?;
                Ok(())
            });
            let record = transaction.add_layer(layer.parent, None, &mut reader, ctx);
            drop(reader);
            let written = written.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // What is wrong with the tree is the cause of what is wrong with the tar.
            written.and(record.map_err(BoxFault::from))
        })
    })?;
    drop(frozen);
    let mut file = base.config.fields().clone();
    let created = Some(request.created.to_string());
    let mut run_config = run_config(&container.config);
    change::apply(&mut run_config, &request.changes)?;
    file.config = Some(run_config);
    file.created.clone_from(&created);
    file.author.clone_from(&request.author);
    file.comment.clone_from(&request.message);
    file.rootfs.diff_ids.push(record.diff_id);
    file.history.push(History {
        created,
        created_by: Some(container.command().join(" ")),
        author: request.author,
        comment: request.message,
        empty_layer: None,
    });
    // A structure of strings, numbers and maps with string keys always serializes.
    let config = ImageConfig::parse(serde_json::to_vec(&file).unwrap_or_default())?;
    let id = config.id();
    let names: Vec<Reference> = request.name.into_iter().collect();
    transaction.add_image(config, &names, None)?;
    transaction.commit(Conflict::Replace, ctx)?;
    let (text, name) = (id.to_string(), names.first().map(ToString::to_string).unwrap_or_default());
    if !name.is_empty() {
        events::record_image(store.root(), "tag", &text, &name);
    }
    let comment = file.comment.as_deref().unwrap_or_default();
    let more = [("comment", comment), ("imageID", text.as_str()), ("imageRef", name.as_str())];
    events::record(store.root(), &container, "commit", &more);
    Ok(id)
}

/// A container's settings as an image's: without what belongs to the one container.
fn run_config(config: &Config) -> RunConfig {
    RunConfig {
        user: config.user.clone(),
        exposed_ports: config.exposed_ports.clone(),
        env: config.env.clone(),
        entrypoint: config.entrypoint.clone().map(Words::List),
        cmd: config.cmd.clone().map(Words::List),
        volumes: config.volumes.clone().unwrap_or_default(),
        working_dir: config.working_dir.clone(),
        labels: config.labels.clone(),
        stop_signal: config.stop_signal.clone(),
        stop_timeout: config.stop_timeout,
        healthcheck: config.healthcheck.clone(),
        on_build: config.on_build.clone(),
        ..RunConfig::default()
    }
}
