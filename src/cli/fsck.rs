//! `ferry fsck`.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{Global, exit, output};
use crate::base::{BoxFault, Class};
use crate::store::{Depth, Finding};

/// Look for damage in the store
///
/// Prints one line for each finding: its name, which never changes, and what it is about. Ends with 6 when something is
/// left that is wrong. What a killed load left is not: the next load removes it.
#[derive(Debug, Args)]
pub struct FsckArgs {
    /// Read every byte too: prove the digests of all layers and compressed blobs
    #[arg(long)]
    contents: bool,
    /// Repair what can be repaired without a loss
    #[arg(long)]
    repair: bool,
    /// `json` for one object a finding
    #[arg(long, value_name = "FORMAT", value_parser = ["json"])]
    format: Option<String>,
}

/// Checks, and repairs.
pub fn run(args: FsckArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let store = global.store()?;
    let depth = if args.contents { Depth::Contents } else { Depth::Metadata };
    let mut findings = store.fsck(depth, &global.ctx)?;
    let mut failed = Vec::new();
    if args.repair && findings.iter().any(|finding| finding.repair.is_some()) {
        failed = store.repair(&findings, &global.ctx)?;
        let left = store.fsck(depth, &global.ctx)?;
        findings.retain(|finding| !left.contains(finding));
        for finding in &findings {
            output::print(show(finding, args.format.is_some(), true))?;
        }
        findings = left;
    }
    for finding in &findings {
        output::print(show(finding, args.format.is_some(), false))?;
    }
    for (finding, error) in &failed {
        global.ctx.warn(format!("{finding} could not be repaired: {error}"));
    }
    let code = if findings.iter().all(|finding| finding.kind.is_leftover()) { 0 } else { exit::code(Class::Integrity) };
    Ok(ExitCode::from(code))
}

fn show(finding: &Finding, as_json: bool, repaired: bool) -> String {
    if as_json {
        let object = json!({
            "finding": finding.kind.slug(),
            "object": finding.object,
            "path": finding.path.display().to_string(),
            "detail": finding.detail,
            "repairable": finding.repair.is_some(),
            "repaired": repaired,
        });
        return format!("{object}\n");
    }
    let state = match (repaired, finding.repair.is_some()) {
        (true, _) => " (repaired)",
        (false, true) => " (can be repaired)",
        (false, false) => "",
    };
    output::clean(&format!("{finding}{state}")).replace('\n', " ") + "\n"
}
