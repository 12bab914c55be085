//! `ferry save`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::archive_options::ArchiveOptions;
use super::{Global, UsageError, output};
use crate::base::BoxFault;
use crate::bundle::KnownBase;
use crate::image::{ImageSource, Platform};
use crate::ops::ledger::Ledger;
use crate::ops::{base, save};
use crate::runtime::events;

/// Save images as one archive, or as a bundle
///
/// A file name that ends in .ferry makes a bundle: every content once, in volumes, with parity, signed and encrypted as
/// the bundle options say.
///
/// The archive is docker-archive and OCI layout in one: docker, podman, skopeo, containerd and ferry load it with all
/// names. The same images give the same bytes.
#[derive(Debug, Args)]
pub struct SaveArgs {
    /// Names, IDs or digests; a repository without tag stands for all its tags
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Write to this file instead of standard output; - is that too
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only images for this platform
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Leave out what this site was sent before, and note that it was sent this: for sites that no inventory comes from
    #[arg(long, value_name = "SITE")]
    sent_to: Option<String>,
    #[command(flatten)]
    archive: ArchiveOptions,
}

/// Saves.
pub fn run(args: SaveArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    args.archive.check(args.output.as_deref())?;
    if output::is_stdout(args.output.as_deref()) && std::io::stdout().is_terminal() {
        let text = "cowardly refusing to save to a terminal. Use the -o flag or redirect";
        return Err(UsageError(text.into()).into());
    }
    if args.sent_to.is_some() && !args.archive.is_bundle(args.output.as_deref()) {
        return Err(UsageError("--sent-to is for bundles: name the file .ferry".into()).into());
    }
    let store = global.store()?;
    let selected = save::select(&store, &args.images, args.platform.as_ref(), &global.ctx)?;
    let source = store.source_as(&selected, &global.ctx)?;
    let images = source.images();
    let ledger = args.sent_to.as_deref().map(|site| Ledger::open(&store, site)).transpose()?;
    if let (Some(ledger), Some(path)) = (&ledger, &args.output) {
        ledger.spares(path)?;
    }
    let more = |bases: &mut Vec<KnownBase>| {
        bases.extend(ledger.as_ref().and_then(Ledger::base));
        base::reach(bases, &store, &global.ctx)
    };
    let (to, spool) = (args.output.as_deref(), global.root.clone());
    args.archive.write_against(&source, images, to, spool, false, &more, &global.ctx)?;
    for (image, _) in &selected {
        let id = image.id().to_string();
        events::record_image(&global.root, "save", &id, &id);
    }
    if let Some(ledger) = ledger {
        // After the bundle: what is noted and was not written would be missing on the far side.
        ledger.record(&store, images, &global.ctx)?;
    }
    Ok(ExitCode::SUCCESS)
}
