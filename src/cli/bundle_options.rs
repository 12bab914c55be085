//! What all commands that write a bundle can be told about it.

use std::path::{Path, PathBuf};

use clap::Args;

use super::trust::AccessArgs;
use super::{UsageError, threads, trust};
use crate::base::{BoxFault, Ctx};
use crate::bundle::carry::Carriage;
use crate::bundle::seal::{Recipients, Signer};
use crate::bundle::volume::{Budget, ParityShare, VolumeSize};
use crate::bundle::{BundleOptions, Level};
use crate::ops::base;

/// How a bundle is carried.
#[derive(Debug, Args)]
#[command(next_help_heading = "Bundle options")]
pub struct BundleArgs {
    /// Write a bundle as numbered volumes of at most this size: fat32, cd, dvd, bd, or bytes with k, m, g, t
    #[arg(long, value_name = "SIZE")]
    volume_size: Option<VolumeSize>,
    /// Add parity: this share of the data, anywhere in it, may be lost and comes back with `ferry repair`
    #[arg(long, value_name = "PERCENT")]
    parity: Option<ParityShare>,
    /// Go on where an interrupted write of the same bundle ended; what is there is compared, not written again
    #[arg(long)]
    resume: bool,
    /// Sign with this ssh-ed25519 key; with a public key the ssh agent signs
    #[arg(long, value_name = "KEY")]
    sign: Option<PathBuf>,
    /// Encrypt to age1…, to "ssh-ed25519 …", or to all recipients in a file
    #[arg(long, value_name = "RECIPIENT", conflicts_with = "passphrase")]
    encrypt_to: Vec<String>,
    /// Leave out what the far side has: an older bundle, or an inventory it wrote; may be given several times
    #[arg(long, value_name = "FILE")]
    base: Vec<PathBuf>,
    /// A key that opens encrypted bases: a file of age identities or an OpenSSH ed25519 key
    #[arg(long, value_name = "FILE", requires = "base")]
    base_identity: Vec<PathBuf>,
    /// Use only bases that are signed by these keys (OpenSSH allowed-signers file)
    #[arg(long, value_name = "FILE", requires = "base")]
    base_signers: Option<PathBuf>,
    /// Encrypt with a passphrase, from FERRY_PASSPHRASE or the terminal
    #[arg(long)]
    passphrase: bool,
}

impl BundleArgs {
    /// Whether something is asked for that only bundles have.
    pub fn asked(&self) -> bool {
        self.volume_size.is_some()
            || self.parity.is_some()
            || self.resume
            || self.sign.is_some()
            || !self.encrypt_to.is_empty()
            || !self.base.is_empty()
            || self.passphrase
    }

    /// What the bundle is carried in; reads keys, asks for passphrases.
    pub fn carriage(&self, scratch: &Path, ctx: &Ctx) -> Result<Carriage, BoxFault> {
        let signer = unless_interrupted(self.sign.as_deref().map(signer).transpose(), ctx)?;
        let recipients = encryption(self.passphrase, &self.encrypt_to, "the bundle", ctx)?;
        let bases = if self.base.is_empty() {
            Vec::new()
        } else {
            let access = AccessArgs::of_bases(&self.base_identity, self.base_signers.as_deref());
            let access = access.access(false, false, scratch.to_owned())?;
            base::open(&self.base, &access, ctx)?
        };
        let Self { volume_size, parity, resume, .. } = *self;
        let budget = Budget::default();
        Ok(Carriage { volume_size, parity, resume, device: None, lead: None, recipients, signer, budget, bases })
    }
}

/// How its objects are written.
pub fn bundle_options(level: Option<Level>, keep_originals: bool, spool_dir: PathBuf) -> BundleOptions {
    BundleOptions {
        level: level.unwrap_or_default(),
        threads: threads(),
        memory: BundleOptions::MEMORY,
        keep_originals,
        spool_dir,
    }
}

/// What came of a question. Who answers by Ctrl-C is told of nothing else.
pub fn unless_interrupted<T>(answered: Result<T, BoxFault>, ctx: &Ctx) -> Result<T, BoxFault> {
    if answered.is_err() {
        ctx.check()?;
    }
    answered
}

/// Whom something new, called `what`, is encrypted to; nobody when neither is asked for.
pub fn encryption(passphrase: bool, to: &[String], what: &str, ctx: &Ctx) -> Result<Option<Recipients>, BoxFault> {
    if passphrase {
        let none =
            "no passphrase, or two different ones: it is asked for on a terminal, or taken from FERRY_PASSPHRASE";
        let given = trust::new_passphrase(what).ok_or_else(|| UsageError(none.into()).into());
        return Ok(Some(Recipients::passphrase(unless_interrupted(given, ctx)?)));
    }
    if to.is_empty() { Ok(None) } else { Ok(Some(recipients(to)?)) }
}

/// The key in a file, or in the agent.
pub fn signer(path: &Path) -> Result<Signer, BoxFault> {
    let socket = std::env::var_os("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty()).map(PathBuf::from);
    Ok(Signer::new(path, &trust::read(path)?, Some(&trust::passphrase()), socket)?)
}

/// Each is a recipient, or a file with one a line.
fn recipients(given: &[String]) -> Result<Recipients, BoxFault> {
    let mut texts = Vec::new();
    for text in given {
        if text.starts_with("age1") || text.starts_with("ssh-") {
            texts.push(text.clone());
            continue;
        }
        let content = String::from_utf8_lossy(&trust::read(Path::new(text))?).into_owned();
        let lines = content.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        texts.extend(lines.map(str::to_owned));
    }
    if texts.is_empty() {
        return Err(UsageError("the files that --encrypt-to names hold no recipient".into()).into());
    }
    Ok(Recipients::parse(texts.iter().map(String::as_str))?)
}
