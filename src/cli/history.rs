//! `ferry history`.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::render::human;
use super::render::list::{Column, Layout};
use super::{Global, output};
use crate::base::BoxFault;
use crate::ops::history::{self, Step};

/// Show how an image was made
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// A name or an ID
    image: String,
    /// Format the output: `table`, `table TEMPLATE`, `json` or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show sizes and times for people (`--human=false`: for programs)
    #[arg(short = 'H', long, default_value_t = true, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    human: bool,
    /// Do not shorten
    #[arg(long)]
    no_trunc: bool,
    /// Show IDs only
    #[arg(short, long)]
    quiet: bool,
}

const COLUMNS: &[Column] = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];
const HUMAN: &str = "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";
const PLAIN: &str = "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";
/// Commands are cut to this many characters.
const COMMAND: usize = 45;

/// Shows the steps, the last first.
pub fn run(args: HistoryArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let default = match (args.quiet, args.human) {
        (true, _) => "{{.ID}}",
        (false, true) => HUMAN,
        (false, false) => PLAIN,
    };
    let layout = match (args.quiet, &args.format) {
        (true, None) => Layout::parse(Some(default), default)?,
        (_, format) => Layout::parse(format.as_deref(), default)?,
    };
    let store = global.store()?;
    let steps = history::history(&store, &store.resolve(&args.image)?)?;
    let rows: Vec<Value> = steps.iter().map(|step| fields(step, &args)).collect();
    output::print(layout.render(COLUMNS, &rows)?)?;
    Ok(ExitCode::SUCCESS)
}

fn fields(step: &Step, args: &HistoryArgs) -> Value {
    let id = step.image.map(|id| if args.no_trunc { id.to_string() } else { id.0.short() });
    let command = step.created_by.replace('\t', " ");
    let command = if args.no_trunc || command.chars().count() <= COMMAND {
        command
    } else {
        command.chars().take(COMMAND - 1).collect::<String>() + "…"
    };
    let iso = step.created.map(|time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default();
    json!({
        "Comment": step.comment,
        "CreatedAt": iso,
        "CreatedBy": command.replace('\n', " "),
        "CreatedSince": human::ago(step.created),
        "ID": id.unwrap_or_else(|| "<missing>".into()),
        "Size": if args.human { human::size(step.size, 3) } else { step.size.to_string() },
    })
}
