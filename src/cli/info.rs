//! `ferry info`.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::render::template::Template;
use super::{Global, output, threads};
use crate::base::BoxFault;
use crate::image::Platform;
use crate::runtime::cgroup::in_user_namespace;

/// Show what there is to know about the store and the host
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// Format the output with a Go template, or as `json`
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
}

/// Shows.
pub fn run(args: InfoArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let store = global.store()?;
    let images = store.images(&global.ctx)?;
    let uname = rustix::system::uname();
    let platform = Platform::host();
    let containers = store.rw_layers()?.len();
    let data = json!({
        "Architecture": uname.machine().to_string_lossy(),
        "Containers": containers,
        "Driver": "overlay2",
        "Images": images.len(),
        "KernelVersion": uname.release().to_string_lossy(),
        "Name": uname.nodename().to_string_lossy(),
        "NCPU": threads(),
        "OSType": platform.os,
        "Platform": platform.to_string(),
        "RootDir": store.root().display().to_string(),
        "Rootless": !rustix::process::geteuid().is_root() || in_user_namespace(),
        "ServerVersion": env!("CARGO_PKG_VERSION"),
    });
    match args.format.as_deref() {
        Some("json") => output::line(data.to_string())?,
        Some(format) => output::line(output::clean(&Template::parse(format)?.render(&data)?))?,
        None => output::print(text(&data))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn text(data: &Value) -> String {
    let lines = [
        ("Version", "ServerVersion"),
        ("Root Dir", "RootDir"),
        ("Storage Driver", "Driver"),
        ("Rootless", "Rootless"),
        ("Images", "Images"),
        ("Containers", "Containers"),
        ("Platform", "Platform"),
        ("Kernel Version", "KernelVersion"),
        ("CPUs", "NCPU"),
        ("Name", "Name"),
    ];
    let show = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    lines.iter().map(|(label, field)| format!("{label}: {}\n", show(&data[*field]))).collect()
}
