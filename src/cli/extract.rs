//! `ferry extract`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::archive_options::ArchiveOptions;
use super::input_options::{InputBaseArgs, WindowArgs};
use super::trust::AccessArgs;
use super::{Global, UsageError, output};
use crate::base::BoxFault;
use crate::bundle::BundleSource;
use crate::bundle::carry::{self, Access};
use crate::bundle::volume::VolumeSet;
use crate::ops::extract;

/// Take one image, layer or file out of a bundle
///
/// Only what is asked for is read and decompressed. --image alone writes an archive or another bundle, --layer a tar, or
/// the blob as its registry has it when the layer is named by that digest, --file a file's bytes.
#[derive(Debug, Args)]
pub struct ExtractArgs {
    /// A bundle: its directory, any of its volumes, or several
    #[arg(required = true, value_name = "BUNDLE")]
    paths: Vec<PathBuf>,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The image, by name or ID
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// The layer, by diff ID or registry digest
    #[arg(long, value_name = "DIGEST", conflicts_with = "image")]
    layer: Option<String>,
    /// The file in that image, or in that layer; links are followed
    #[arg(long, value_name = "PATH")]
    file: Option<String>,
    /// Mend a damaged bundle while it is read, as far as its parity goes
    #[arg(long)]
    repair: bool,
    /// Where frames are kept while they are read [default: the system's directory for temporary files]
    #[arg(long, value_name = "DIR")]
    spool_dir: Option<PathBuf>,
    #[command(flatten)]
    window: WindowArgs,
    #[command(flatten)]
    base: InputBaseArgs,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    archive: ArchiveOptions,
}

/// Extracts.
pub fn run(args: ExtractArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let to = args.output.as_deref();
    args.archive.check(to)?;
    if args.image.is_none() && args.layer.is_none() && args.file.is_none() {
        return Err(UsageError("say what to extract: --image, --layer or --file".into()).into());
    }
    if output::is_stdout(to) && args.file.is_none() && std::io::stdout().is_terminal() {
        return Err(UsageError("refusing to write to a terminal: use -o FILE or redirect".into()).into());
    }
    let spool = args.spool_dir.unwrap_or_else(std::env::temp_dir);
    let mut access = args.access.access(true, args.repair, spool.clone())?;
    access.limits = args.window.limits();
    let source = open(&args.paths, &args.base, &access, global)?;
    if let Some(path) = &args.file {
        let (layers, place) = match &args.layer {
            Some(wanted) => {
                let (layer, _) = extract::layer(&source, wanted)?;
                (vec![layer.diff_id], format!("layer {wanted}"))
            }
            None => {
                let image = extract::image(&source, args.image.as_deref())?;
                let place = image.names.first().map_or_else(|| image.config.id().to_string(), ToString::to_string);
                (image.config.diff_ids().to_vec(), place)
            }
        };
        let found = extract::find(&source, &layers, path, &place)?;
        // What a file may do beyond being run is for the image it belongs to.
        let mode = found.1.entry.mode & 0o777;
        return output::write(to, mode, |out| extract::write_file(&source, &found, out, &global.ctx));
    }
    if let Some(wanted) = &args.layer {
        let (layer, form) = extract::layer(&source, wanted)?;
        return output::write(to, 0o600, |out| extract::write_layer(&source, &layer, form, out, &global.ctx));
    }
    let image = extract::image(&source, args.image.as_deref())?;
    args.archive.write(&source, &[image], to, spool, true, &global.ctx)?;
    Ok(ExitCode::SUCCESS)
}

/// Opens a bundle; a thin one with what `base` and the store have.
fn open(paths: &[PathBuf], base: &InputBaseArgs, access: &Access, global: &Global) -> Result<BundleSource, BoxFault> {
    let source = carry::open(VolumeSet::open(paths)?, access, &global.ctx)?.source;
    if !source.bundle().index().is_thin() {
        return Ok(source);
    }
    let bases = base.open(Some(global.store()?), access, &global.ctx)?;
    // What is in the bundle itself can be had whatever is missing.
    Ok(source.with_part_of_base(Arc::new(bases)))
}
