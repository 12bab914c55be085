//! `ferry prune`.

use std::io::BufRead;
use std::process::ExitCode;

use clap::Args;

use super::render::human;
use super::{Global, output, rmi};
use crate::base::BoxFault;
use crate::ops::list::Selection;
use crate::ops::uses;
use crate::runtime::events;
use crate::store::{PruneOptions, StoredImage};

/// Remove images that nothing uses, and what crashes left
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Remove images with names too, when no container uses them
    #[arg(short, long)]
    all: bool,
    /// Only images that fit: label=KEY[=VALUE], label!=KEY[=VALUE], until=TIME
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Say which images would go, and do nothing
    #[arg(long)]
    dry_run: bool,
}

impl PruneArgs {
    /// Without a question.
    pub fn unasked(all: bool, filter: Vec<String>) -> Self {
        Self { all, filter, force: true, dry_run: false }
    }
}

/// Prunes, after asking.
pub fn run(args: PruneArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let mut selection = Selection::default();
    for filter in &args.filter {
        selection.add_filter(filter)?;
    }
    let filter = |image: &StoredImage| selection.takes(image);
    let store = global.store()?;
    let containers = uses::of_images(&store)?;
    let options = PruneOptions { all: args.all, filter: &filter, containers: &containers, dry_run: args.dry_run };
    if !args.dry_run && !args.force && !sure(what(args.all))? {
        return Ok(ExitCode::SUCCESS);
    }
    let report = store.prune(&options, &global.ctx)?;
    if args.dry_run {
        let line = |image: &StoredImage| {
            let names: Vec<String> = image.names.iter().map(ToString::to_string).collect();
            format!("{} {}\n", image.id(), names.join(" ")).replace(" \n", "\n")
        };
        output::print(report.candidates.iter().map(line).collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let named = |name: &str| {
        let has = |image: &&StoredImage| image.names.iter().any(|own| own.to_string() == name);
        report.candidates.iter().find(has).map(|image| image.id().to_string())
    };
    rmi::note(&global.root, &report.removed, named);
    events::record_prune(&global.root, "image", report.reclaimed);
    if !report.removed.is_empty() {
        let lines = rmi::lines(&report.removed).replace("Untagged:", "untagged:").replace("Deleted:", "deleted:");
        output::print(format!("Deleted Images:\n{lines}\n"))?;
    }
    output::line(format!("Total reclaimed space: {}", human::size(report.reclaimed, 4)))?;
    Ok(ExitCode::SUCCESS)
}

fn what(all: bool) -> &'static str {
    if all { "all images without at least one container associated to them" } else { "all dangling images" }
}

/// Asks as docker does.
pub fn sure(what: &str) -> Result<bool, BoxFault> {
    output::print(format!("WARNING! This will remove {what}.\nAre you sure you want to continue? [y/N] "))?;
    let mut answer = String::new();
    // No answer is no.
    let _ = std::io::stdin().lock().read_line(&mut answer);
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}
