//! `ferry tag`.

use std::process::ExitCode;

use clap::Args;

use super::Global;
use crate::base::BoxFault;
use crate::image::Reference;
use crate::runtime::events;

/// Give an image another name
#[derive(Debug, Args)]
pub struct TagArgs {
    /// A name or an ID
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    source: String,
    /// The name to give; an image that has it loses it
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    target: String,
}

/// Tags.
pub fn run(args: TagArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let target = args.target.parse::<Reference>()?.or_latest();
    let store = global.store()?;
    let image = store.resolve(&args.source)?;
    // The new name stands for the same manifest as the old one, where the image came with several.
    let manifest = args.source.parse::<Reference>().ok().and_then(|name| image.manifest_of(&name));
    store.tag(&image.id(), &target, manifest, &global.ctx)?;
    events::record_image(&global.root, "tag", &image.id().to_string(), &target.to_string());
    Ok(ExitCode::SUCCESS)
}
