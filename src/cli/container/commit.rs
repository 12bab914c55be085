//! `ferry commit`.

use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;

use super::super::{Global, output, parse};
use super::containers;
use crate::base::BoxFault;
use crate::image::Reference;
use crate::ops::commit::{self, CommitRequest};
use crate::runtime::RuntimeError;

/// Make an image of what a container changed
#[derive(Debug, Args)]
pub struct CommitArgs {
    /// Who did it
    #[arg(short, long, value_name = "TEXT")]
    author: Option<String>,
    /// Apply an instruction of a Dockerfile
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// The message of the history
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Freeze the container meanwhile
    #[arg(short, long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    pause: bool,
    /// A name or an ID
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// The image's name
    #[arg(value_name = "REPOSITORY[:TAG]", value_parser = parse::image_name)]
    name: Option<Reference>,
}

/// Commits and prints the image's ID. `SOURCE_DATE_EPOCH` is the time of all that is younger.
pub fn run(args: CommitArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let dir = containers(global).find(&args.container)?;
    let latest = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => {
            let bad = |_| RuntimeError::usage("SOURCE_DATE_EPOCH is not a number of seconds");
            Some(text.parse::<i64>().map_err(bad)?)
        }
        Err(_) => None,
    };
    let created = latest.and_then(|seconds| Timestamp::from_second(seconds).ok()).unwrap_or_else(Timestamp::now);
    let request = CommitRequest {
        name: args.name,
        author: args.author,
        message: args.message,
        changes: args.change,
        pause: args.pause,
        created,
        latest,
    };
    let id = commit::commit(&global.store_to_write()?, &dir, request, &global.ctx)?;
    output::line(id.to_string())?;
    Ok(ExitCode::SUCCESS)
}
