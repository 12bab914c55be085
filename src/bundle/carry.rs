//! A bundle as a whole: images into a signed, encrypted, protected volume set, and out of one.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::base::{BaseContents, KnownBase};
use super::read::Bundle;
use super::seal::{Encrypting, Identities, Policy, Recipients, SealError, SignedBy, Signer, Trust, WayIn};
use super::source::BundleSource;
use super::volume::{
    Budget, ParityShare, SetId, SetReader, SetWriter, VolumeError, VolumeSet, VolumeSize, WriteOptions, Written, check,
    restore,
};
use super::write::{BundleOptions, BundleReport, BundleSink};
use crate::base::{AtPath, BoxFault, Ctx, ReadAt};
use crate::image::{Image, ImageSink, ImageSource};
use crate::layer::compression::DecodeLimits;

/// What a bundle is carried in.
#[derive(Default)]
pub struct Carriage {
    /// The most bytes of a file; without it there is one file.
    pub volume_size: Option<VolumeSize>,
    /// The share of parity.
    pub parity: Option<ParityShare>,
    /// Go on where an earlier run ended.
    pub resume: bool,
    /// The device number of the file system that all files must lie on.
    pub device: Option<u64>,
    /// What stands in front of a bundle of one file, so that it can be started.
    pub lead: Option<Arc<Vec<u8>>>,
    /// Whom it is encrypted to.
    pub recipients: Option<Recipients>,
    /// Who signs it.
    pub signer: Option<Signer>,
    /// What the parity may take.
    pub budget: Budget,
    /// What it leaves out because the far side has it.
    pub bases: Vec<KnownBase>,
}

/// Where a bundle goes.
pub enum Target<'a> {
    /// A file, or the numbered files made of its name.
    Path(&'a Path),
    /// Something that only goes forward.
    Pipe(Box<dyn Write + Send + 'a>),
}

/// Writes images as a bundle. With a path, files have their names only when all is written.
pub fn write(
    source: &dyn ImageSource,
    images: &[Image],
    target: Target<'_>,
    carriage: Carriage,
    options: BundleOptions,
    ctx: &Ctx,
) -> Result<(BundleReport, Written), BoxFault> {
    let Carriage { volume_size, parity, resume, device, lead, recipients, signer, budget, bases } = carriage;
    let encrypted = recipients.is_some();
    let set = if encrypted { random_id()? } else { set_id(images, &options, volume_size, parity, &bases) };
    let volume = WriteOptions { set, encrypted, volume_size, parity, resume, device, lead, budget };
    let writer = begin(target, volume)?;
    let sign = |statement: &str| match &signer {
        Some(signer) => Ok(vec![signer.sign(statement.as_bytes())?]),
        None => Ok(Vec::new()),
    };
    let written = |error| SealError::Encrypt(format!("the bundle cannot be written: {error}"));
    match recipients {
        None => {
            let (report, writer) = sink(writer, source, images, (options, bases), ctx)?;
            Ok((report, writer.finish(Some(&sign), ctx)?))
        }
        Some(recipients) => {
            let sealing: Encrypting<_> = recipients.encrypt(writer)?;
            let (report, sealing) = sink(sealing, source, images, (options, bases), ctx)?;
            let writer = sealing.finish().map_err(written)?;
            Ok((report, writer.finish(Some(&sign), ctx)?))
        }
    }
}

/// Writes an inventory as a set of one volume, signed, encrypted, or both.
pub fn write_inventory(
    bytes: &[u8],
    target: Target<'_>,
    recipients: Option<Recipients>,
    signer: Option<&Signer>,
    ctx: &Ctx,
) -> Result<(), BoxFault> {
    let encrypted = recipients.is_some();
    let set = if encrypted { random_id()? } else { SetId::derive(bytes) };
    let mut writer = begin(target, WriteOptions { encrypted, ..WriteOptions::new(set) })?;
    let failed = |error| SealError::Encrypt(format!("the inventory cannot be written: {error}"));
    let sign = |statement: &str| match signer {
        Some(signer) => Ok(vec![signer.sign(statement.as_bytes())?]),
        None => Ok(Vec::new()),
    };
    let writer = match recipients {
        None => {
            writer.write_all(bytes).at("write", "the inventory")?;
            writer
        }
        Some(recipients) => {
            let mut sealing = recipients.encrypt(writer)?;
            sealing.write_all(bytes).at("write", "the inventory")?;
            sealing.finish().map_err(failed)?
        }
    };
    writer.finish(Some(&sign), ctx)?;
    Ok(())
}

fn begin<'a>(target: Target<'a>, options: WriteOptions) -> Result<SetWriter<'a>, VolumeError> {
    match target {
        Target::Path(path) => SetWriter::to_path(path, options),
        Target::Pipe(pipe) => SetWriter::to_pipe(pipe, options),
    }
}

fn sink<W: Write>(
    out: W,
    source: &dyn ImageSource,
    images: &[Image],
    (options, bases): (BundleOptions, Vec<KnownBase>),
    ctx: &Ctx,
) -> Result<(BundleReport, W), BoxFault> {
    let mut sink = BundleSink::new(out, options).against(bases);
    let report = sink.take(source, images, ctx)?;
    Ok((report, sink.into_inner()))
}

/// Follows from what goes in and how, so that an interrupted set can be written again and compared.
fn set_id(
    images: &[Image],
    options: &BundleOptions,
    size: Option<VolumeSize>,
    parity: Option<ParityShare>,
    bases: &[KnownBase],
) -> SetId {
    let mut input = format!("{:?} {} {size:?} {parity:?}\n", options.level, options.keep_originals);
    for known in bases {
        input += &format!("base {}\n", hex::encode(known.base.identity));
    }
    for image in images {
        input += &format!("{}\n", image.config.id());
        for name in &image.names {
            input += &format!("\t{}\n", name.full());
        }
    }
    SetId::derive(input.as_bytes())
}

/// An ID made of an encrypted bundle's images would let others find out which they are.
fn random_id() -> Result<SetId, BoxFault> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other).at("read", "the system's random numbers")?;
    Ok(SetId::from_bytes(bytes))
}

/// One authority on what comes in: the user's flags, or a policy.
#[derive(Debug, Clone)]
pub struct Gate {
    /// Whose signature counts.
    pub trust: Trust,
    /// Whether there must be one. An unsigned bundle passes without; one that is signed by nobody who counts does not.
    pub required: bool,
    /// Who may sign what.
    pub policy: Option<Policy>,
}

impl Gate {
    /// Whether something that is no bundle may come in this way; `origin` is for messages.
    pub fn admits(&self, way: WayIn, origin: &str) -> Result<(), SealError> {
        match &self.policy {
            Some(policy) => policy.permits(way),
            None if self.required => Err(SealError::NotSigned(origin.to_owned())),
            None => Ok(()),
        }
    }
}

/// What it takes to open a bundle.
pub struct Access {
    /// Keys of encrypted bundles.
    pub identities: Identities,
    /// All of them must let the bundle through.
    pub gates: Vec<Gate>,
    /// Whether damage is mended on the fly, as far as the parity goes.
    pub repair: bool,
    /// Where nameless files go meanwhile.
    pub scratch: PathBuf,
    /// Memory for frames, in bytes.
    pub memory: u64,
    /// What mending may take.
    pub budget: Budget,
    /// What thin bundles are read with.
    pub base: Option<Arc<dyn BaseContents>>,
    /// What compressed layers may demand.
    pub limits: DecodeLimits,
    /// Whether contents that the base has are not read from the bundle: it is on another host.
    pub spare: bool,
}

/// An opened bundle.
pub struct Opened {
    /// Its images.
    pub source: BundleSource,
    /// The signatures that counted.
    pub signed_by: Vec<SignedBy>,
}

/// The stream in a set of volumes, its signatures checked and its encryption undone; whatever it is a stream of.
pub struct Unsealed {
    /// The stream.
    pub stream: Arc<dyn ReadAt>,
    /// The set's place, for messages.
    pub origin: String,
    /// The signatures that counted at each gate.
    signers: Vec<Vec<SignedBy>>,
}

/// Opens the bundle in a set of volumes. Its signature is checked before a byte of its stream is used, and every block
/// before a byte of it is.
pub fn open(set: VolumeSet, access: &Access, ctx: &Ctx) -> Result<Opened, BoxFault> {
    open_unsealed(unseal(set, access, ctx)?, access)
}

/// Checks who signed a set, and opens its encryption.
pub fn unseal(set: VolumeSet, access: &Access, ctx: &Ctx) -> Result<Unsealed, BoxFault> {
    let origin = set.near().display().to_string();
    let signers = pass(&set, &access.gates, &origin)?;
    let encrypted = set.encrypted();
    let stream: Arc<dyn ReadAt> = Arc::new(reader(set, access, ctx)?);
    let stream: Arc<dyn ReadAt> = match encrypted {
        true => {
            let opened = access.identities.open(&origin, stream);
            if opened.is_err() {
                // Who answers the question for a passphrase by Ctrl-C is told of nothing else.
                ctx.check()?;
            }
            Arc::new(opened?)
        }
        false => stream,
    };
    Ok(Unsealed { stream, origin, signers })
}

/// Opens the bundle in an unsealed stream.
pub fn open_unsealed(unsealed: Unsealed, access: &Access) -> Result<Opened, BoxFault> {
    let Unsealed { stream, origin, signers } = unsealed;
    let bundle = Bundle::open(stream, origin)?;
    let mut source = BundleSource::new(bundle, access.scratch.clone(), access.memory)?.within(access.limits);
    if let Some(base) = access.base.as_ref().filter(|_| source.bundle().index().is_thin()) {
        source = source.with_base(base.clone())?;
    }
    if let Some(base) = access.base.as_ref().filter(|_| access.spare) {
        source = source.sparing(base.clone());
    }
    for (gate, signers) in access.gates.iter().zip(&signers) {
        // Whoever signed may do so for his names alone, whether or not somebody had to.
        let Some(policy) = gate.policy.as_ref().filter(|_| !signers.is_empty()) else { continue };
        for image in source.images() {
            policy.may_sign(signers, &image.names)?;
        }
    }
    let mut signed_by: Vec<SignedBy> = Vec::new();
    for signer in signers.into_iter().flatten() {
        if !signed_by.contains(&signer) {
            signed_by.push(signer);
        }
    }
    Ok(Opened { source, signed_by })
}

/// The signatures that count at each gate, or the first gate's refusal.
pub fn pass(set: &VolumeSet, gates: &[Gate], origin: &str) -> Result<Vec<Vec<SignedBy>>, SealError> {
    let judge = |gate: &Gate| {
        if set.signatures().is_empty() && !gate.required {
            return Ok(Vec::new());
        }
        gate.trust.verify(origin, &set.statement(), set.signatures())
    };
    gates.iter().map(judge).collect()
}

fn reader(set: VolumeSet, access: &Access, ctx: &Ctx) -> Result<SetReader, VolumeError> {
    if !access.repair {
        return SetReader::new(set);
    }
    let damage = check(&set, access.budget, ctx)?;
    if damage.report.intact() {
        return SetReader::new(set);
    }
    let restored = restore(&set, damage, false, &access.scratch, access.budget, ctx)?;
    Ok(SetReader::repaired(set, restored))
}
