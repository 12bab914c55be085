//! `ferry container prune`.

use std::process::ExitCode;

use clap::Args;

use super::super::filter::PruneFilter;
use super::super::render::human;
use super::super::{Global, exit, output, prune};
use super::containers;
use crate::base::BoxFault;
use crate::runtime::container::ContainerDir;
use crate::runtime::{events, lifecycle, overlay};
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
    let filters = args.filter.iter().map(|text| PruneFilter::parse(text)).collect::<Result<Vec<_>, _>>()?;
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
