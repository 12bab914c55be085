//! `ferry diff`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::input_options::WindowArgs;
use super::render::human;
use super::trust::AccessArgs;
use super::{Global, output};
use crate::base::BoxFault;
use crate::bundle::BundleSource;
use crate::bundle::carry::{self, Access};
use crate::bundle::volume::VolumeSet;
use crate::ops::bundle_diff::{self, Change, Difference};

/// Show what a container changed, or what the second of two bundles has that the first has not
///
/// Of a container: A is added, C changed, D deleted, compared with its image.
///
/// Of bundles: images by name, layers, and files with how many bytes come and go. Times do not count: a rebuilt layer whose files are
/// the same has no changed files. Only the indexes and recipes of the bundles are read. A is added, C changed, D deleted.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// A container; or a bundle: its directory, any of its volumes, or the name it was written with
    #[arg(value_name = "CONTAINER|A.ferry")]
    before: PathBuf,
    /// Another
    #[arg(value_name = "B.ferry")]
    after: Option<PathBuf>,
    /// Show images, layers and sums, not every file
    #[arg(short, long)]
    quiet: bool,
    /// How to show the result
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    format: Format,
    #[command(flatten)]
    window: WindowArgs,
    #[command(flatten)]
    access: AccessArgs,
}

/// How to show the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Lines
    Text,
    /// One JSON object
    Json,
}

/// Compares.
pub fn run(args: DiffArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let Some(after) = &args.after else {
        let shown = super::container::diff::show(&args.before.to_string_lossy(), global);
        return Ok(shown.unwrap_or_else(|fault| super::container::failed(&*fault)));
    };
    let mut access = args.access.access(true, false, std::env::temp_dir())?;
    access.limits = args.window.limits();
    let (before, after) = (open(&args.before, &access, global)?, open(after, &access, global)?);
    let difference = bundle_diff::diff(&before, &after, &global.ctx)?;
    match args.format {
        Format::Text => output::print(output::clean(&text(&difference, args.quiet)))?,
        Format::Json => output::line(json(&difference, args.quiet).to_string())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn open(path: &Path, access: &Access, global: &Global) -> Result<BundleSource, BoxFault> {
    Ok(carry::open(VolumeSet::open(&[path.to_owned()])?, access, &global.ctx)?.source)
}

fn letter(change: Change) -> char {
    match change {
        Change::Added => 'A',
        Change::Changed => 'C',
        Change::Gone => 'D',
    }
}

fn text(difference: &Difference, quiet: bool) -> String {
    let size = |bytes| human::size(bytes, 4);
    let mut text = String::new();
    for image in &difference.images {
        let name = image.name.as_deref().unwrap_or("<none>");
        let ids: Vec<String> = [image.before, image.after].into_iter().flatten().map(|id| id.0.short()).collect();
        text += &format!("{} image {name} {}\n", letter(image.change), ids.join(" -> "));
    }
    for layer in &difference.layers {
        text += &format!("{} layer {} {}\n", letter(layer.change), layer.diff_id, size(layer.size));
    }
    for diff_id in &difference.unseen {
        text += &format!("? layer {diff_id} is in the base alone\n");
    }
    for file in difference.files.iter().filter(|_| !quiet) {
        let bytes = match file.change {
            Change::Added => format!("+{}", size(file.added)),
            Change::Gone => format!("-{}", size(file.gone)),
            Change::Changed => format!("+{} -{}", size(file.added), size(file.gone)),
        };
        text += &format!("{} /{} {bytes}\n", letter(file.change), String::from_utf8_lossy(&file.path));
    }
    let count = |change| difference.files.iter().filter(|file| file.change == change).count();
    let layers = |change| difference.layers.iter().filter(|layer| layer.change == change).count();
    text += &format!(
        "Layers: {} added, {} deleted, {} the same\n",
        layers(Change::Added),
        layers(Change::Gone),
        difference.same_layers
    );
    text += &format!(
        "Files:  {} added, {} changed, {} deleted\n",
        count(Change::Added),
        count(Change::Changed),
        count(Change::Gone)
    );
    text += &format!("Bytes:  {} added, {} deleted\n", size(difference.bytes_added), size(difference.bytes_gone));
    text
}

fn json(difference: &Difference, quiet: bool) -> Value {
    let images = difference.images.iter().map(|image| {
        let id = |id: Option<crate::image::ImageId>| id.map(|id| id.to_string());
        json!({
            "change": letter(image.change).to_string(),
            "name": image.name,
            "before": id(image.before),
            "after": id(image.after),
        })
    });
    let layers = difference.layers.iter().map(|layer| {
        let change = letter(layer.change).to_string();
        json!({"change": change, "diffId": layer.diff_id.to_string(), "bytes": layer.size})
    });
    let files = difference.files.iter().filter(|_| !quiet).map(|file| {
        json!({
            "change": letter(file.change).to_string(),
            "path": format!("/{}", String::from_utf8_lossy(&file.path)),
            "bytesAdded": file.added,
            "bytesDeleted": file.gone,
        })
    });
    json!({
        "images": images.collect::<Vec<_>>(),
        "layers": layers.collect::<Vec<_>>(),
        "sameLayers": difference.same_layers,
        "unseenLayers": difference.unseen.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "files": files.collect::<Vec<_>>(),
        "bytesAdded": difference.bytes_added,
        "bytesDeleted": difference.bytes_gone,
    })
}
