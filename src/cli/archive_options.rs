//! What all commands that write an archive can be told about it.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::bundle_options::{BundleArgs, bundle_options};
use super::medium_options::MediumArgs;
use super::output::{self, Place};
use super::{UsageError, threads};
use crate::archive::write::{Format, WriteOptions, WriteReport};
use crate::base::{BoxFault, Ctx};
use crate::bundle::carry::{self, Target};
use crate::bundle::volume::{fits_a_pipe, has_ending};
use crate::bundle::{KnownBase, Level};
use crate::image::{Image, ImageSource};
use crate::layer::compression::{Compression, EncodeOptions};
use crate::ops::media::{self, Attendant};
use crate::ops::save::{self, Output, Packing};

/// How an archive is written.
#[derive(Debug, Args)]
pub struct ArchiveOptions {
    /// Compress the archive [default: by the file name's ending: .gz, .tgz, .zst; otherwise none]
    #[arg(long, value_enum, value_name = "METHOD")]
    compress: Option<Compress>,
    /// The level of compression, in the method's own scale [default: gzip 6, zstd 3]; for bundles fast, default, max, or
    /// 1 to 22
    #[arg(long, value_name = "LEVEL", allow_negative_numbers = true)]
    level: Option<String>,
    /// What is written [default: bundle for names that end in .ferry, hybrid otherwise]
    #[arg(long, value_enum, value_name = "FORMAT")]
    output_format: Option<OutputFormat>,
    /// Uncompress the layers that some engine cannot read; their registry digests change
    #[arg(long)]
    compat: bool,
    /// Write every layer uncompressed, not as its registry has it
    #[arg(long)]
    no_originals: bool,
    /// Prove the digest of every layer while it is written
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    bundle: BundleArgs,
    #[command(flatten)]
    medium: MediumArgs,
}

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Compress {
    /// Not at all
    None,
    /// RFC 1952, in blocks on all cores
    Gzip,
    /// RFC 8878, on all cores
    Zstd,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    /// Both of the others in one
    Hybrid,
    /// docker-archive alone, layers uncompressed
    Docker,
    /// OCI layout alone
    Oci,
    /// ferry's own: every content once
    Bundle,
}

const NEEDS_A_FILE: &str = "a bundle that brings its ferry along needs a file: -o FILE";

/// Adds to the bases that the options name.
pub type MoreBases<'a> = dyn Fn(&mut Vec<KnownBase>) -> Result<(), BoxFault> + 'a;

impl ArchiveOptions {
    /// Writes images to a file, or to standard output. With `prove` every layer's digest is, whatever the flags say.
    pub fn write(
        &self,
        source: &dyn ImageSource,
        images: &[Image],
        to: Option<&Path>,
        spool: PathBuf,
        prove: bool,
        ctx: &Ctx,
    ) -> Result<(), BoxFault> {
        self.write_against(source, images, to, spool, prove, &|_| Ok(()), ctx)
    }

    /// The same; what a bundle is written against is shown to `more` first.
    #[expect(clippy::too_many_arguments, reason = "it is `write` and one more")]
    pub fn write_against(
        &self,
        source: &dyn ImageSource,
        images: &[Image],
        to: Option<&Path>,
        spool: PathBuf,
        prove: bool,
        more: &MoreBases<'_>,
        ctx: &Ctx,
    ) -> Result<(), BoxFault> {
        if self.is_bundle(to) {
            let mut carriage = self.bundle.carriage(&spool, ctx)?;
            more(&mut carriage.bases)?;
            let level = self.level.as_deref().map(str::parse).transpose().map_err(usage)?;
            let options = bundle_options(level, !self.no_originals, spool.clone());
            // Names of volumes are made of the one that was given, wherever a link of that name may lead.
            let place = match (output::Place::of(to)?, to) {
                (Place::File(_), Some(path)) if carriage.volume_size.is_some() => Place::File(path.to_owned()),
                (place, _) => place,
            };
            let path = match place {
                Place::Through(direct) => {
                    fits_a_pipe(carriage.volume_size, carriage.parity)?;
                    if self.medium.brings() {
                        return Err(UsageError(NEEDS_A_FILE.into()).into());
                    }
                    let write = |out| carry::write(source, images, Target::Pipe(out), carriage, options, ctx);
                    return direct.write(write).map(drop);
                }
                Place::File(path) => path,
            };
            let mut luggage = self.medium.luggage(&path)?;
            if self.medium.concerns(&path) {
                let onto = (&*spool, &self.medium as &dyn Attendant);
                return media::save(source, images, &path, (carriage, options), luggage, onto, ctx);
            }
            carriage.lead = luggage.take_lead(&path, carriage.volume_size.is_some());
            carry::write(source, images, Target::Path(&path), carriage, options, ctx)?;
            return luggage.beside.iter().try_for_each(|file| file.write(media::folder_of(&path)).map(drop));
        }
        let packing = self.packing(to)?;
        let mut options = self.write_options(spool);
        options.prove |= prove;
        let report = match output::Place::of(to)? {
            Place::File(path) if self.medium.concerns(&path) => {
                media::save_archive(source, images, &path, (packing, options), &self.medium, ctx)?
            }
            Place::File(path) => save::save(source, images, Output::File(&path), packing, options, ctx)?,
            Place::Through(direct) => {
                direct.write(|mut out| save::save(source, images, Output::Stream(&mut *out), packing, options, ctx))?
            }
        };
        self.warn_of_changes(&report, ctx);
        Ok(())
    }

    /// Fails when the options make no sense together; before anything is opened.
    pub fn check(&self, to: Option<&Path>) -> Result<(), UsageError> {
        if self.medium.brings() {
            if output::is_stdout(to) {
                return Err(UsageError(NEEDS_A_FILE.into()));
            }
            if !self.is_bundle(to) {
                return Err(UsageError("--with-ferry is for bundles: name the file .ferry".into()));
            }
        }
        if self.is_bundle(to) {
            if self.compress.is_some() || self.compat || self.verify {
                let text =
                    "--compress, --compat and --verify are for archives: a bundle is compressed and proven anyway";
                return Err(UsageError(text.into()));
            }
            return self.level.as_deref().map_or(Ok(()), |level| level.parse::<Level>().map(drop).map_err(usage));
        }
        if self.bundle.asked() {
            let text = "volumes, parity, signatures and encryption are for bundles: name the file .ferry, or give \
                        --output-format bundle";
            return Err(UsageError(text.into()));
        }
        self.packing(to).map(drop)
    }

    /// Whether a bundle is written.
    pub fn is_bundle(&self, to: Option<&Path>) -> bool {
        let named = || to.is_some_and(has_ending);
        self.output_format.map_or_else(|| self.medium.executable() || named(), |format| format == OutputFormat::Bundle)
    }

    /// The compression asked for, or the one that the file's name asks for.
    fn packing(&self, path: Option<&Path>) -> Result<Packing, UsageError> {
        let compression = match (self.compress, path) {
            (Some(Compress::None), _) | (None, None) => Compression::None,
            (Some(Compress::Gzip), _) => Compression::Gzip,
            (Some(Compress::Zstd), _) => Compression::Zstd,
            (None, Some(path)) => by_ending(path)?,
        };
        let levels = match compression {
            Compression::Gzip => 1..=9,
            Compression::Zstd => -7..=22,
            _ => i32::MIN..=i32::MAX,
        };
        let level = self.level.as_deref().map(str::parse::<i32>).transpose();
        let level = level.map_err(|_| UsageError("--level is a number".into()))?;
        if let Some(level) = level.filter(|level| !levels.contains(level)) {
            let text = format!("level {level} is not one of {} to {}", levels.start(), levels.end());
            return Err(UsageError(text));
        }
        Ok(Packing { compression, options: EncodeOptions { level, threads: threads() } })
    }

    /// The rest; layers of unknown size are kept in `spool`.
    fn write_options(&self, spool: PathBuf) -> WriteOptions {
        WriteOptions {
            format: match self.output_format {
                Some(OutputFormat::Docker) => Format::Docker,
                Some(OutputFormat::Oci) => Format::Oci,
                Some(OutputFormat::Hybrid | OutputFormat::Bundle) | None => Format::Hybrid,
            },
            compat: self.compat,
            no_originals: self.no_originals,
            prove: self.verify,
            omit: Default::default(),
            spool,
        }
    }

    /// Says which digests are others now.
    fn warn_of_changes(&self, report: &WriteReport, ctx: &Ctx) {
        for (old, new) in &report.changed {
            ctx.warn(format!("manifest {old} becomes {new}: not all of its layers are written as it names them"));
        }
    }
}

/// The compression that a file's name asks for.
fn by_ending(path: &Path) -> Result<Compression, UsageError> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
    match ending.as_str() {
        "gz" | "tgz" => Ok(Compression::Gzip),
        "zst" | "zstd" | "tzst" => Ok(Compression::Zstd),
        "xz" | "txz" | "bz2" | "tbz2" | "lz4" => {
            Err(UsageError(format!("ferry does not write .{ending}; use .tar, .tar.gz or .tar.zst, or --compress")))
        }
        _ => Ok(Compression::None),
    }
}

fn usage(error: impl std::fmt::Display) -> UsageError {
    UsageError(error.to_string())
}
