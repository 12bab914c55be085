//! `ferry ls`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;

use super::input_options::WindowArgs;
use super::plural::counted;
use super::render::human;
use super::trust::AccessArgs;
use super::{Global, output};
use crate::base::BoxFault;
use crate::bundle::carry;
use crate::bundle::index::{BaseKind, Index, LayerKind, LayerRecord};
use crate::bundle::outline::outline;
use crate::bundle::tree::Tree;
use crate::bundle::volume::VolumeSet;
use crate::image::ImageSource;
use crate::layer::tar::{Entry, Kind};
use crate::ops::extract;

/// List the images and layers of a bundle, and how they are kept, or their files
///
/// Only the index at its end is read, and for files the recipes of the layers.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// A bundle: its directory, any of its volumes, or several
    #[arg(required = true, value_name = "BUNDLE")]
    paths: Vec<PathBuf>,
    /// List the files of this image, by name or ID
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// List the entries of this layer, by diff ID or registry digest
    #[arg(long, value_name = "DIGEST", conflicts_with = "image")]
    layer: Option<String>,
    #[command(flatten)]
    window: WindowArgs,
    #[command(flatten)]
    access: AccessArgs,
}

/// Lists.
pub fn run(args: LsArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let mut access = args.access.access(true, false, std::env::temp_dir())?;
    access.limits = args.window.limits();
    let source = carry::open(VolumeSet::open(&args.paths)?, &access, &global.ctx)?.source;
    let index = source.bundle().index();
    let mut text = String::new();
    if let Some(wanted) = &args.layer {
        let (layer, _) = extract::layer(&source, wanted)?;
        outline(&source, &layer.diff_id, &mut |file| {
            text += &line(&file.entry, &String::from_utf8_lossy(&file.entry.path));
            Ok(())
        })?;
        output::print(text)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(wanted) = &args.image {
        let image = extract::image(&source, Some(wanted))?;
        for (path, (_, file)) in Tree::of(&source, image.config.diff_ids().iter().copied())?.files {
            text += &line(&file.entry, &format!("/{}", String::from_utf8_lossy(&path)));
        }
        output::print(text)?;
        return Ok(ExitCode::SUCCESS);
    }
    for image in source.images() {
        let names: Vec<String> = image.names.iter().map(ToString::to_string).collect();
        text += &format!("{}  {}\n", image.config.id().0.short(), names.join(" "));
        for layer in &image.layers {
            let how = source.kept(layer).map_or("", how);
            let size = human::size(layer.size.unwrap_or(0), 4);
            text += &format!("    {}  {size:>9}  {how}\n", layer.diff_id.0.short());
        }
    }
    text += &totals(index, source.bundle().size());
    output::print(output::clean(&text))?;
    Ok(ExitCode::SUCCESS)
}

/// A file, as `tar tv` shows it.
fn line(entry: &Entry, path: &str) -> String {
    let kind = match entry.kind {
        Kind::Directory => 'd',
        Kind::Symlink => 'l',
        Kind::HardLink => 'h',
        Kind::CharDevice => 'c',
        Kind::BlockDevice => 'b',
        Kind::Fifo => 'p',
        _ => '-',
    };
    let bits = |shift: u32, special: u32, set: char| {
        let bit = |n: u32, c: char| if entry.mode >> (shift + n) & 1 == 1 { c } else { '-' };
        let run = match (entry.mode & special != 0, entry.mode >> shift & 1 == 1) {
            (true, true) => set,
            (true, false) => set.to_ascii_uppercase(),
            (false, _) => bit(0, 'x'),
        };
        format!("{}{}{run}", bit(2, 'r'), bit(1, 'w'))
    };
    let mode = format!("{kind}{}{}{}", bits(6, 0o4000, 's'), bits(3, 0o2000, 's'), bits(0, 0o1000, 't'));
    let time = Timestamp::from_second(entry.mtime.seconds).map_or_else(|_| "?".into(), |time| time.to_string());
    let link = match entry.kind {
        Kind::Symlink => format!(" -> {}", output::field(&String::from_utf8_lossy(&entry.link))),
        Kind::HardLink => format!(" link to {}", output::field(&String::from_utf8_lossy(&entry.link))),
        _ => String::new(),
    };
    let size = match entry.kind {
        Kind::CharDevice | Kind::BlockDevice => format!("{},{}", entry.device.0, entry.device.1),
        _ => entry.size().to_string(),
    };
    let path = output::field(path);
    format!("{mode} {:>5}/{:<5} {size:>10} {time} {path}{link}\n", entry.uid, entry.gid)
}

fn how(layer: &LayerRecord) -> &'static str {
    match layer.kind {
        LayerKind::Split { .. } if layer.replay.is_some() => "deduplicated, compressed again when asked for",
        LayerKind::Split { .. } => "deduplicated",
        LayerKind::Blob { .. } => "as its registry has it",
        LayerKind::Base => "in the base",
    }
}

fn totals(index: &Index, size: u64) -> String {
    // One that is there by several blobs counts once.
    let layers: BTreeMap<_, u64> = index.layers.iter().map(|layer| (layer.diff_id, layer.size)).collect();
    let objects: u64 = index.objects.iter().map(|object| u64::from(*object)).sum();
    let mut text = format!(
        "{}, {} of {}, {}, {} stored in {}\n",
        counted(index.images.len(), "image"),
        counted(layers.len(), "layer"),
        human::size(layers.values().sum(), 4),
        counted(index.contents.ids.len(), "content"),
        human::size(objects, 4),
        human::size(size, 4)
    );
    let contents = index.base_contents.ids.len();
    for (number, base) in (0..).zip(&index.bases) {
        let label = output::field(&base.label);
        let what = match base.kind {
            BaseKind::Bundle => format!("bundle {label} has"),
            // What a site was sent is noted as an inventory too.
            BaseKind::Inventory => format!("{label} has by its inventory or ledger"),
        };
        // Holders are those of contents, then those of whole layers; a single base has all.
        let holds = |at: usize| index.holders.get(at).is_none_or(|holder| *holder == number);
        let layers = index.layers.iter().filter(|layer| layer.kind == LayerKind::Base).zip(contents..);
        text += &format!(
            "Needs what {what}: {}, {}\n",
            counted(layers.filter(|(_, at)| holds(*at)).count(), "layer"),
            counted((0..contents).filter(|at| holds(*at)).count(), "content")
        );
    }
    text
}
