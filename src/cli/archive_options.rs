//! What all commands that write an archive can be told about it.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::{UsageError, threads};
use crate::archive::write::{Format, WriteOptions, WriteReport};
use crate::base::Ctx;
use crate::layer::compression::{Compression, EncodeOptions};
use crate::ops::save::Packing;

/// How an archive is written.
#[derive(Debug, Args)]
pub struct ArchiveOptions {
    /// Compress the archive [default: by the file name's ending: .gz, .tgz, .zst; otherwise none]
    #[arg(long, value_enum, value_name = "METHOD")]
    compress: Option<Compress>,
    /// The level of compression, in the method's own scale [default: gzip 6, zstd 3]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    level: Option<i32>,
    /// Which documents the archive has
    #[arg(long, value_enum, default_value_t = OutputFormat::Hybrid, value_name = "FORMAT")]
    output_format: OutputFormat,
    /// Uncompress the layers that some engine cannot read; their registry digests change
    #[arg(long)]
    compat: bool,
    /// Write every layer uncompressed, not as its registry has it
    #[arg(long)]
    no_originals: bool,
    /// Prove the digest of every layer while it is written
    #[arg(long)]
    verify: bool,
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

/// Which documents an archive has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    /// Both of the others in one
    Hybrid,
    /// docker-archive alone, layers uncompressed
    Docker,
    /// OCI layout alone
    Oci,
}

impl ArchiveOptions {
    /// The compression asked for, or the one that the file's name asks for.
    pub fn packing(&self, path: Option<&Path>) -> Result<Packing, UsageError> {
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
        if let Some(level) = self.level.filter(|level| !levels.contains(level)) {
            let text = format!("level {level} is not one of {} to {}", levels.start(), levels.end());
            return Err(UsageError(text));
        }
        Ok(Packing { compression, options: EncodeOptions { level: self.level, threads: threads() } })
    }

    /// The rest; layers of unknown size are kept in `spool`.
    pub fn write_options(&self, spool: PathBuf) -> WriteOptions {
        WriteOptions {
            format: match self.output_format {
                OutputFormat::Hybrid => Format::Hybrid,
                OutputFormat::Docker => Format::Docker,
                OutputFormat::Oci => Format::Oci,
            },
            compat: self.compat,
            no_originals: self.no_originals,
            prove: self.verify,
            spool,
        }
    }

    /// Says which digests are others now.
    pub fn warn_of_changes(&self, report: &WriteReport, ctx: &Ctx) {
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
