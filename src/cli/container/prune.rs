//! `ferry container prune`.

use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;

use super::super::render::human;
use super::super::{Global, exit, moment, output, prune};
use super::containers;
use crate::base::BoxFault;
use crate::runtime::container::{Container, ContainerDir};
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
    /// All of them, without a question.
    pub fn unasked() -> Self {
        Self { filter: Vec::new(), force: true }
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
        if !state.status.can_remove() || !filters.iter().all(|filter| filter.fits(&container)) {
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

enum Filter {
    Until(Timestamp),
    Label { key: String, value: Option<String>, wanted: bool },
}

impl Filter {
    fn parse(text: &str) -> Result<Self, RuntimeError> {
        let bad = || RuntimeError::usage(format!("invalid filter {text:?}"));
        let label = |rest: &str, wanted| {
            let (key, value) = rest.split_once('=').map_or((rest, None), |(key, value)| (key, Some(value.to_owned())));
            Self::Label { key: key.to_owned(), value, wanted }
        };
        if let Some(rest) = text.strip_prefix("label!=") {
            return Ok(label(rest, false));
        }
        match text.split_once('=') {
            Some(("label", rest)) => Ok(label(rest, true)),
            Some(("until", time)) => moment::parse(time).map(Self::Until).map_err(RuntimeError::Usage),
            _ => Err(bad()),
        }
    }

    fn fits(&self, container: &Container) -> bool {
        match self {
            Self::Until(until) => container.created.parse::<Timestamp>().is_ok_and(|made| made < *until),
            Self::Label { key, value, wanted } => {
                let found = container.config.labels.get(key);
                let has = found.is_some_and(|found| value.as_ref().is_none_or(|value| value == found));
                has == *wanted
            }
        }
    }
}
