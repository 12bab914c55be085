//! `ferry ls`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::render::human;
use super::trust::AccessArgs;
use super::{Global, output};
use crate::base::BoxFault;
use crate::bundle::carry;
use crate::bundle::index::{BaseKind, Index, LayerKind};
use crate::bundle::volume::VolumeSet;
use crate::image::ImageSource;

/// List the images and layers of a bundle, and how they are kept
///
/// Only the index at its end is read.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// A bundle: its directory, any of its volumes, or several
    #[arg(required = true, value_name = "BUNDLE")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    access: AccessArgs,
}

/// Lists.
pub fn run(args: LsArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let access = args.access.access(true, false, std::env::temp_dir())?;
    let source = carry::open(VolumeSet::open(&args.paths)?, &access, &global.ctx)?.source;
    let index = source.bundle().index();
    let mut text = String::new();
    for image in source.images() {
        let names: Vec<String> = image.names.iter().map(ToString::to_string).collect();
        text += &format!("{}  {}\n", image.config.id().0.short(), names.join(" "));
        for layer in &image.layers {
            let record = index.layers.iter().find(|record| record.diff_id == layer.diff_id);
            let how = record.map_or("", |record| how(record.kind));
            let size = human::size(layer.size.unwrap_or(0), 4);
            text += &format!("    {}  {size:>9}  {how}\n", layer.diff_id.0.short());
        }
    }
    text += &totals(index, source.bundle().size());
    output::print(output::clean(&text))?;
    Ok(ExitCode::SUCCESS)
}

fn how(kind: LayerKind) -> &'static str {
    match kind {
        LayerKind::Split { .. } => "deduplicated",
        LayerKind::Blob { .. } => "as its registry has it",
        LayerKind::Base => "in the base",
    }
}

fn totals(index: &Index, size: u64) -> String {
    let layers: u64 = index.layers.iter().map(|layer| layer.size).sum();
    let objects: u64 = index.objects.iter().map(|object| u64::from(*object)).sum();
    let mut text = format!(
        "{} images, {} layers of {}, {} contents, {} stored in {}\n",
        index.images.len(),
        index.layers.len(),
        human::size(layers, 4),
        index.contents.ids.len(),
        human::size(objects, 4),
        human::size(size, 4)
    );
    for base in &index.bases {
        let kind = match base.kind {
            BaseKind::Bundle => "bundle",
            BaseKind::Inventory => "inventory",
        };
        text += &format!("Needs what {kind} {} has ({} contents)\n", base.label, index.base_contents.ids.len());
    }
    text
}
