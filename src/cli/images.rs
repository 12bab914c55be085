//! `ferry images`.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::render::human;
use super::render::list::{Column, Layout};
use super::{Global, output};
use crate::base::BoxFault;
use crate::ops::list::{self, Row, Selection};

/// List images
#[derive(Debug, Args)]
pub struct ImagesArgs {
    /// Only these names; `*` stands for any part of a name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    repository: Option<String>,
    /// Show all images, those that only others are built on too
    #[arg(short, long)]
    all: bool,
    /// Show the digests that registries know the images by
    #[arg(long)]
    digests: bool,
    /// Only images that fit: dangling=BOOL, label=KEY[=VALUE], before=IMAGE, since=IMAGE, until=TIME, reference=PATTERN
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Format the output: `table`, `table TEMPLATE`, `json` or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Do not shorten IDs
    #[arg(long)]
    no_trunc: bool,
    /// Show IDs only
    #[arg(short, long)]
    quiet: bool,
}

const COLUMNS: &[Column] = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("VirtualSize", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
];
const DEFAULT: &str = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";
const WITH_DIGESTS: &str = "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";

/// Lists.
pub fn run(args: ImagesArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let default = if args.digests { WITH_DIGESTS } else { DEFAULT };
    let layout = Layout::parse_or_quiet(args.format.as_deref(), args.quiet, "ID", default)?;
    let mut selection = Selection { all: args.all, ..Selection::default() };
    selection.references.extend(args.repository);
    for filter in &args.filter {
        selection.add_filter(filter)?;
    }
    let images = list::select(&global.store()?, &selection, &global.ctx)?;
    let mut rows: Vec<Value> = list::rows(images).iter().map(|row| fields(row, args.no_trunc)).collect();
    if matches!(layout, Layout::Only(_)) {
        // One line an image, not one a name.
        let mut seen = std::collections::HashSet::new();
        rows.retain(|row| seen.insert(row["ID"].to_string()));
    }
    output::print(layout.render(COLUMNS, &rows)?)?;
    Ok(ExitCode::SUCCESS)
}

fn fields(row: &Row, no_trunc: bool) -> Value {
    let none = || "<none>".to_owned();
    let id = row.image.id();
    let size = human::size(row.image.size, 3);
    json!({
        "Containers": "N/A",
        "CreatedAt": human::time(row.image.created()),
        "CreatedSince": human::ago(row.image.created()),
        "Digest": row.digest.map_or_else(none, |digest| digest.to_string()),
        "ID": if no_trunc { id.to_string() } else { id.0.short() },
        "Repository": row.repository.clone().unwrap_or_else(none),
        "SharedSize": "N/A",
        "Size": size,
        "Tag": row.tag.clone().unwrap_or_else(none),
        "UniqueSize": "N/A",
        "VirtualSize": size,
    })
}
