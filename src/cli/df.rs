//! `ferry df`.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::render::human;
use super::render::list::{Column, Layout};
use super::{Global, output};
use crate::base::BoxFault;
use crate::image::Reference;
use crate::store::{ImageUsage, Usage};

/// Show how much room the store takes
#[derive(Debug, Args)]
pub struct DfArgs {
    /// Show each image
    #[arg(short, long)]
    verbose: bool,
    /// Format the output: `table`, `table TEMPLATE`, `json` or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

const COLUMNS: &[Column] = &[
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];
const DEFAULT: &str = "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}";
const IMAGE_COLUMNS: &[Column] = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("Size", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
];
const IMAGE: &str =
    "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}";

/// Shows.
pub fn run(args: DfArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let (columns, default) = if args.verbose { (IMAGE_COLUMNS, IMAGE) } else { (COLUMNS, DEFAULT) };
    let layout = Layout::parse(args.format.as_deref(), default)?;
    let usage = global.store()?.usage(&global.ctx)?;
    let rows: Vec<Value> = if args.verbose { usage.images.iter().map(image).collect() } else { summary(&usage) };
    output::print(layout.render(columns, &rows)?)?;
    Ok(ExitCode::SUCCESS)
}

fn summary(usage: &Usage) -> Vec<Value> {
    let row = |kind: &str, total: u64, active: u64, size: u64, reclaimable: u64| {
        let percent =
            if size > 0 { format!(" ({}%)", u128::from(reclaimable) * 100 / u128::from(size)) } else { String::new() };
        json!({
            "Type": kind,
            "TotalCount": total.to_string(),
            "Active": active.to_string(),
            "Size": human::size(size, 4),
            "Reclaimable": human::size(reclaimable, 4) + &percent,
        })
    };
    let active = usage.images.iter().filter(|image| image.in_use).count() as u64;
    let writable = usage.containers.iter().map(|(_, size)| size).sum();
    let containers = usage.containers.len() as u64;
    let (originals, staging) = (usage.originals, usage.staging);
    vec![
        row("Images", usage.images.len() as u64, active, usage.layers.bytes, usage.reclaimable()),
        row("Containers", containers, 0, writable, 0),
        row("Compressed Layers", originals.count, originals.count, originals.bytes, 0),
        row("Loads Under Way", staging.count, staging.count, staging.bytes, 0),
    ]
}

fn image(usage: &ImageUsage) -> Value {
    let tagged = usage.image.names.iter().find(|name| name.tag().is_some());
    let none = || "<none>".to_owned();
    json!({
        "Repository": tagged.map_or_else(none, Reference::familiar_name),
        "Tag": tagged.and_then(Reference::tag).map_or_else(none, ToOwned::to_owned),
        "ID": usage.image.id().0.short(),
        "CreatedSince": human::ago(usage.image.created()),
        "Size": human::size(usage.image.size, 4),
        "SharedSize": human::size(usage.shared, 4),
        "UniqueSize": human::size(usage.unique, 4),
    })
}
