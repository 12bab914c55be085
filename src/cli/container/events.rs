//! `ferry events`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use super::super::render::template::Template;
use super::super::{Global, filter, moment, output};
use super::containers;
use crate::base::BoxFault;
use crate::runtime::RuntimeError;
use crate::runtime::events::Follower;

/// Show what happens to containers, as it happens
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Only those that fit: container=NAME, event=ACTION, image=NAME, label=KEY[=VALUE], type=TYPE, volume=NAME, network=NAME
    #[arg(short, long, value_name = "FILTER", value_parser = filter::pair)]
    filter: Vec<String>,
    /// Format the output with a Go template, or as `json`
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Those since then, too
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Those until then, and no longer
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

/// How long nothing is looked for after nothing was found.
const PAUSE: Duration = Duration::from_millis(50);

/// Shows events until the time is over, or without end.
pub fn run(args: EventsArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let template = match args.format.as_deref() {
        None | Some("json" | "{{json .}}") => None,
        Some(format) => Some(Template::parse(format)?),
    };
    let filters = args.filter.iter().map(|filter| split(filter)).collect::<Result<Vec<_>, _>>()?;
    let time = |text: &Option<String>| text.as_deref().map(moment::parse).transpose().map_err(RuntimeError::Usage);
    let (since, until) = (time(&args.since)?, time(&args.until)?);
    let _ = containers(global);
    // With an end in the past all there is to see is in the log.
    let from_start = since.is_some() || until.is_some_and(|until| until <= Timestamp::now());
    let since = since.map_or(0, nanos);
    let until = until.map_or(i64::MAX, nanos);
    let mut follower = Follower::open(&global.root, from_start)?;
    loop {
        // Looked at before the log is read: what came before the end is still shown.
        let now = nanos(Timestamp::now());
        while let Some(event) = follower.poll()? {
            let time = event["timeNano"].as_i64().unwrap_or(0);
            if time < since || time > until || !fits(&filters, &event) {
                continue;
            }
            match &template {
                Some(template) => output::line(output::clean(&template.render(&with_names(event))?))?,
                None if args.format.is_some() => output::line(event.to_string())?,
                None => output::line(output::clean(&line(&event)))?,
            }
        }
        if now >= until {
            return Ok(ExitCode::SUCCESS);
        }
        global.ctx.check()?;
        std::thread::sleep(PAUSE);
    }
}

/// Templates know the fields by their names in Go, too.
fn with_names(mut event: Value) -> Value {
    const NAMES: [(&str, &str); 6] = [
        ("Status", "status"),
        ("ID", "id"),
        ("From", "from"),
        ("Scope", "scope"),
        ("Time", "time"),
        ("TimeNano", "timeNano"),
    ];
    for (name, key) in NAMES {
        event[name] = event.get(key).cloned().unwrap_or_else(|| "".into());
    }
    event
}

fn nanos(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}

fn split(filter: &str) -> Result<(&str, &str), RuntimeError> {
    const KNOWN: [&str; 10] =
        ["container", "event", "image", "label", "type", "volume", "network", "scope", "daemon", "plugin"];
    let bad = || RuntimeError::usage(format!("invalid filter {filter:?}"));
    filter.split_once('=').filter(|(kind, _)| KNOWN.contains(kind)).ok_or_else(bad)
}

/// Filters of one kind are alternatives, kinds go together, labels as well.
fn fits(filters: &[(&str, &str)], event: &Value) -> bool {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (id, attributes) = (text(&event["Actor"]["ID"]), &event["Actor"]["Attributes"]);
    let name = text(&attributes["name"]);
    let of = |kind: &str| event["Type"] == kind;
    let one = |(kind, value): &(&str, &str)| match *kind {
        // As docker: the beginning of a name will do.
        "container" | "volume" | "network" => of(kind) && (name.starts_with(value) || id.starts_with(value)),
        // `health_status` means all of them.
        "event" => text(&event["Action"]) == *value || text(&event["Action"]).starts_with(&format!("{value}:")),
        "image" => {
            let image = if of("image") { name.clone() } else { text(&attributes["image"]) };
            id == *value || image == *value || untagged(&image) == *value
        }
        "type" => of(value),
        "scope" => event["scope"] == *value,
        "label" => match value.split_once('=') {
            Some((key, value)) => attributes[key] == value,
            None => !attributes[*value].is_null(),
        },
        _ => false,
    };
    filters.iter().all(|filter| {
        let (kind, _) = filter;
        if *kind == "label" { one(filter) } else { filters.iter().filter(|(other, _)| other == kind).any(one) }
    })
}

/// A name without its tag.
fn untagged(name: &str) -> &str {
    name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(name, |(name, _)| name)
}

/// Docker's line: time, type, action, what, and what else there is to say.
fn line(event: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let time = Timestamp::from_nanosecond(event["timeNano"].as_i64().unwrap_or(0).into()).unwrap_or_default();
    let time = format!("{time:.9}").replace('Z', "+00:00");
    let attributes = event["Actor"]["Attributes"].as_object();
    let pairs: Vec<String> =
        attributes.into_iter().flatten().map(|(key, value)| format!("{key}={}", text(value))).collect();
    let all = if pairs.is_empty() { String::new() } else { format!(" ({})", pairs.join(", ")) };
    format!("{time} {} {} {}{all}", text(&event["Type"]), text(&event["Action"]), text(&event["Actor"]["ID"]))
}
