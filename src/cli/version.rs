//! `ferry version`.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::render::template::Template;
use super::{Global, output};
use crate::base::BoxFault;
use crate::image::Platform;

/// Show the version
#[derive(Debug, Args)]
pub struct VersionArgs {
    /// Format the output with a Go template, or as `json`
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
}

/// Prints the version and what the binary was built for.
pub fn run(args: VersionArgs, _: &Global) -> Result<ExitCode, BoxFault> {
    let platform = Platform::host();
    let client = json!({
        "Version": env!("CARGO_PKG_VERSION"),
        "Os": platform.os,
        "Arch": platform.architecture,
        "StoreVersion": crate::store::VERSION,
    });
    // Scripts ask docker for both sides; without a daemon they are one.
    let data = json!({"Client": client, "Server": client});
    match args.format.as_deref() {
        Some("json") => output::line(data.to_string())?,
        Some(format) => output::line(output::clean(&Template::parse(format)?.render(&data)?))?,
        None => output::print(text(&client))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn text(client: &Value) -> String {
    let field = |name: &str| client[name].as_str().unwrap_or_default().to_owned();
    format!(
        "ferry:\n Version:        {}\n OS/Arch:        {}/{}\n Store version:  {}\n",
        field("Version"),
        field("Os"),
        field("Arch"),
        client["StoreVersion"]
    )
}
