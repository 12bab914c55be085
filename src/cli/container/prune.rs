//! `ferry container prune`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;

use super::super::render::human;
use super::super::{Global, exit, filter, moment, output, prune};
use super::containers;
use crate::base::BoxFault;
use crate::runtime::container::ContainerDir;
use crate::runtime::{RuntimeError, events, lifecycle, overlay};
use crate::store::usage::file_bytes;

/// Remove all containers that do not run
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Only those that fit: until=TIME, label=KEY[=VALUE], label!=KEY[=VALUE]
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

impl PruneArgs {
    /// Without a question.
    pub fn unasked(filter: Vec<String>) -> Self {
        Self { filter, force: true }
    }
}

/// Removes, after asking.
pub fn run(args: PruneArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let filters = args.filter.iter().map(|text| Filter::parse(text)).collect::<Result<Vec<_>, _>>()?;
    if !args.force && !prune::sure("all stopped containers")? {
        return Ok(ExitCode::SUCCESS);
    }
    let mut code = ExitCode::SUCCESS;
    let (mut removed, mut freed) = (Vec::new(), 0);
    for (dir, container, state) in containers(global).all()? {
        if !state.status.can_remove()
            || !filters.iter().all(|filter| filter.fits(&container.created, &container.config.labels))
        {
            continue;
        }
        let size = size(global, &dir);
        match lifecycle::rm(&global.root, &dir, false, false) {
            Ok(()) => {
                removed.push(container.id);
                freed += size;
            }
            Err(error) => code = exit::report(&error),
        }
    }
    events::record_prune(&global.root, "container", freed);
    if !removed.is_empty() {
        output::print(format!("Deleted Containers:\n{}\n\n", removed.join("\n")))?;
    }
    output::line(format!("Total reclaimed space: {}", human::size(freed, 4)))?;
    Ok(code)
}

/// What a container's own files take. What cannot be counted is not promised.
pub fn size(global: &Global, dir: &ContainerDir) -> u64 {
    let upper = overlay::store(&global.root).ok().and_then(|store| store.rw_layer(dir.id()).ok());
    upper.and_then(|layer| file_bytes(&layer.upper).ok()).unwrap_or(0)
}

/// What may be pruned.
pub enum Filter {
    /// Made before then.
    Until(Timestamp),
    /// With, or without, such a label.
    Label {
        /// `KEY` or `KEY=VALUE`.
        label: String,
        /// With.
        wanted: bool,
    },
}

impl Filter {
    /// `until=TIME`, `label=KEY[=VALUE]`, `label!=KEY[=VALUE]`.
    pub fn parse(text: &str) -> Result<Self, RuntimeError> {
        let label = |label: &str, wanted| Self::Label { label: label.to_owned(), wanted };
        match text.split_once('=') {
            Some(("label!", rest)) => Ok(label(rest, false)),
            Some(("label", rest)) => Ok(label(rest, true)),
            Some(("until", time)) => moment::parse(time).map(Self::Until).map_err(RuntimeError::Usage),
            _ => Err(filter::bad(text)),
        }
    }

    /// Whether it fits what was made then and has these labels.
    pub fn fits(&self, created: &str, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Until(until) => created.parse::<Timestamp>().is_ok_and(|made| made < *until),
            Self::Label { label, wanted } => filter::has_label(labels, label) == *wanted,
        }
    }
}
