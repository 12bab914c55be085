//! `ferry import`.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;

use super::input_options::WindowArgs;
use super::{Global, output, parse, trust};
use crate::base::{AtPath, BoxFault};
use crate::bundle::seal::WayIn;
use crate::image::{Platform, Reference};
use crate::ops::import::{self, ImportRequest};

/// Make an image of a tar of a root file system
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The tar, plain or compressed; `-` is standard input
    #[arg(value_name = "FILE|-")]
    file: String,
    /// The image's name
    #[arg(value_name = "REPOSITORY[:TAG]", value_parser = parse::image_name)]
    name: Option<Reference>,
    /// Apply an instruction of a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER,
    /// VOLUME or WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// The message of the history
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// The image's platform [default: this host's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    #[command(flatten)]
    window: WindowArgs,
}

/// Imports and prints the image's ID.
pub fn run(args: ImportArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    trust::permits(WayIn::Import)?;
    let input = if args.file == "-" {
        let stdin = std::io::stdin().as_fd().try_clone_to_owned().at("open", "standard input")?;
        File::from(stdin)
    } else {
        File::open(&args.file).at("open", &args.file)?
    };
    let request = ImportRequest {
        input,
        origin: args.file,
        name: args.name,
        changes: args.change,
        message: args.message,
        platform: args.platform,
        limits: args.window.limits(),
        created: Timestamp::now(),
    };
    let id = import::import(&global.store_to_write()?, request, &global.ctx)?;
    output::line(id.to_string())?;
    Ok(ExitCode::SUCCESS)
}
