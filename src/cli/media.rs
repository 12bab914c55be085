//! `ferry media`.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::render::human;
use super::render::list::{Column, Layout};
use super::{Global, output};
use crate::base::BoxFault;
use crate::transfer::media::{self, Medium};

/// List the removable media that are plugged in, and what fits on them
#[derive(Debug, Args)]
pub struct MediaArgs {
    /// Format the output: `table`, `table TEMPLATE`, `json` or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

const COLUMNS: &[Column] = &[
    ("Device", "DEVICE"),
    ("MountPoint", "MOUNTED ON"),
    ("FileSystem", "FILE SYSTEM"),
    ("Size", "SIZE"),
    ("Free", "FREE"),
    ("MaxFile", "LARGEST FILE"),
    ("Access", "ACCESS"),
    ("Model", "MODEL"),
];
const DEFAULT: &str =
    "{{.Device}}\t{{.MountPoint}}\t{{.FileSystem}}\t{{.Size}}\t{{.Free}}\t{{.MaxFile}}\t{{.Access}}\t{{.Model}}";

/// Lists.
pub fn run(args: MediaArgs, _: &Global) -> Result<ExitCode, BoxFault> {
    let layout = Layout::parse(args.format.as_deref(), DEFAULT)?;
    let rows: Vec<Value> = media::list()?.iter().map(row).collect();
    output::print(layout.render(COLUMNS, &rows)?)?;
    Ok(ExitCode::SUCCESS)
}

fn row(medium: &Medium) -> Value {
    let access = match (medium.read_only, medium.no_exec) {
        (true, _) => "read only",
        (false, true) => "no programs",
        (false, false) => "all",
    };
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), |bytes| human::size(bytes, 3));
    let mounted = medium.mount_point.as_ref().map_or_else(|| "-".into(), |path| path.display().to_string());
    json!({
        "Device": medium.device,
        "MountPoint": output::clean(&mounted),
        "FileSystem": medium.file_system.as_deref().unwrap_or("-"),
        "Size": human::size(medium.size, 3),
        "Free": size(medium.free),
        "MaxFile": size(medium.max_file),
        "Access": access,
        "Model": output::clean(&medium.model),
    })
}
