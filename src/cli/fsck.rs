//! `ferry fsck`.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{Global, exit, output};
use crate::base::{BoxFault, Class};
use crate::runtime::leftovers::{self, Leftover};
use crate::store::{Depth, Finding};

/// Look for damage in the store, and for what containers left behind
///
/// Prints one line for each finding: its name, which never changes, and what it is about. Ends with 6 when something is
/// left that is wrong. What a killed load or a killed container left is not, where the next load or the next command
/// clears it away.
#[derive(Debug, Args)]
pub struct FsckArgs {
    /// Read every byte too: prove the digests of all layers and compressed blobs
    #[arg(long)]
    contents: bool,
    /// Repair what can be repaired without a loss, and clear away what is left; containers that were lost are started
    /// again if their restart policy says so
    #[arg(long)]
    repair: bool,
    /// `json` for one object a finding
    #[arg(long, value_name = "FORMAT", value_parser = ["json"])]
    format: Option<String>,
}

/// Checks, and repairs.
pub fn run(args: FsckArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let store = global.store()?;
    let root = store.root();
    // Containers first: what is cleared away with them is nothing that the store has to be repaired of.
    let mut lines = Lines { as_json: args.format.is_some(), wrong: false };
    let mut left = leftovers::find(root)?;
    if args.repair && left.iter().any(|leftover| leftover.clears) {
        let failed = leftovers::clear(root, &left);
        let still = leftovers::find(root)?;
        for leftover in left.iter().filter(|leftover| !still.contains(leftover)) {
            lines.print(&Line::from(leftover), true)?;
        }
        for (leftover, error) in failed.iter().filter(|(leftover, _)| still.contains(leftover)) {
            global.ctx.warn(format!("{leftover} could not be cleared away: {error}"));
        }
        left = still;
    }
    for leftover in &left {
        lines.print(&Line::from(leftover), false)?;
    }
    let depth = if args.contents { Depth::Contents } else { Depth::Metadata };
    let mut findings = store.fsck(depth, &global.ctx)?;
    if args.repair && findings.iter().any(|finding| finding.repair.is_some()) {
        let failed = store.repair(&findings, &global.ctx)?;
        let still = store.fsck(depth, &global.ctx)?;
        for finding in findings.iter().filter(|finding| !still.contains(finding)) {
            lines.print(&Line::from(finding), true)?;
        }
        for (finding, error) in &failed {
            global.ctx.warn(format!("{finding} could not be repaired: {error}"));
        }
        findings = still;
    }
    for finding in &findings {
        lines.print(&Line::from(finding), false)?;
    }
    Ok(ExitCode::from(if lines.wrong { exit::code(Class::Integrity) } else { 0 }))
}

/// A finding as it is shown.
struct Line<'a> {
    slug: &'static str,
    text: String,
    object: &'a str,
    path: String,
    detail: &'a str,
    repairable: bool,
    passing: bool,
}

impl<'a> From<&'a Finding> for Line<'a> {
    fn from(finding: &'a Finding) -> Self {
        Self {
            slug: finding.kind.slug(),
            text: finding.to_string(),
            object: &finding.object,
            path: finding.path.display().to_string(),
            detail: &finding.detail,
            repairable: finding.repair.is_some(),
            passing: finding.kind.is_leftover(),
        }
    }
}

impl<'a> From<&'a Leftover> for Line<'a> {
    fn from(leftover: &'a Leftover) -> Self {
        Self {
            slug: leftover.kind.slug(),
            text: leftover.to_string(),
            object: &leftover.object,
            path: leftover.path.display().to_string(),
            detail: &leftover.detail,
            repairable: leftover.clears,
            passing: leftover.kind.is_passing(),
        }
    }
}

struct Lines {
    as_json: bool,
    /// Whether something was printed that is wrong and stays so.
    wrong: bool,
}

impl Lines {
    fn print(&mut self, line: &Line<'_>, repaired: bool) -> Result<(), BoxFault> {
        self.wrong |= !repaired && !line.passing;
        if self.as_json {
            let object = json!({
                "finding": line.slug,
                "object": line.object,
                "path": line.path,
                "detail": line.detail,
                "repairable": line.repairable,
                "repaired": repaired,
            });
            return output::line(object.to_string());
        }
        let state = match (repaired, line.repairable) {
            (true, _) => " (repaired)",
            (false, true) => " (can be repaired)",
            (false, false) => "",
        };
        output::line(output::clean(&format!("{}{state}", line.text)).replace('\n', " "))
    }
}
