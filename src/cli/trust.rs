//! Options about signatures and encryption, and the files, the agent and the terminal behind them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::ask::Terminal;
use crate::base::caps::read_all;
use crate::base::{AtPath, BoxFault, PathError};
use crate::bundle::BundleOptions;
use crate::bundle::carry::{Access, Gate};
use crate::bundle::seal::{AllowedSigners, Identities, Passphrase, Policy, RevokedKeys, Trust, WayIn};
use crate::bundle::volume::Budget;
use crate::layer::compression::DecodeLimits;
use crate::transfer::ssh::Prompter;

/// The policy of the whole system.
const SYSTEM_POLICY: &str = "/etc/ferry/policy.json";
/// Key, policy and signers files are smaller than this, in bytes.
const FILE_MAX: u64 = 16 << 20;

/// Options of commands that read bundles.
#[derive(Debug, Clone, Default, Args)]
pub struct AccessArgs {
    /// A key that opens an encrypted bundle: a file of age identities or an OpenSSH ed25519 key
    #[arg(long, value_name = "FILE")]
    identity: Vec<PathBuf>,
    /// Accept only bundles signed by these keys (OpenSSH allowed-signers file), and unsigned ones
    ///
    /// A key a line: release@example.com namespaces="ferry-bundle" ssh-ed25519 AAAA... The first word says whose it is; the
    /// options behind it (namespaces=, valid-after=20260131, valid-before=, commas between) may be missing; # begins a comment.
    #[arg(long, value_name = "FILE")]
    allowed_signers: Option<PathBuf>,
    /// Keys that are no longer accepted, one a line
    ///
    /// Each is a public key (ssh-ed25519 AAAA...) or a fingerprint (SHA256:...); # begins a comment.
    #[arg(long, value_name = "FILE", requires = "allowed_signers")]
    revoked_keys: Option<PathBuf>,
    /// Refuse bundles that are not signed
    #[arg(long, requires = "allowed_signers")]
    require_signature: bool,
    /// Obey this policy too, beside /etc/ferry/policy.json
    ///
    /// Both are a JSON object whose members may each be missing: "require-signature": true; "allowed-signers" and
    /// "revoked-keys", each a file as for the option; "images": {"release@example.com": ["registry.example.com/app/*"]}, the
    /// full names that a signer may bring; "permit": what may come in though signatures are required, of "archive",
    /// "import", "receive" and "pull".
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

impl AccessArgs {
    /// What bases of thin bundles are opened with; when there are signers, they must be signed.
    pub fn of_bases(identity: &[PathBuf], signers: Option<&Path>) -> Self {
        Self {
            identity: identity.to_vec(),
            allowed_signers: signers.map(Path::to_owned),
            require_signature: signers.is_some(),
            ..Self::default()
        }
    }

    /// Whether anything beside the checks of its own is asked of a bundle, or needed to open it.
    pub fn asks(&self) -> Result<bool, BoxFault> {
        Ok(!self.identity.is_empty() || self.allowed_signers.is_some() || !self.policies()?.is_empty())
    }

    /// The policies that hold: the system's, and the one named.
    pub fn policies(&self) -> Result<Vec<Policy>, BoxFault> {
        let mut policies = system_policy()?;
        policies.extend(self.named_policy()?);
        Ok(policies)
    }

    fn named_policy(&self) -> Result<Option<Policy>, BoxFault> {
        let parse = |path: &PathBuf| -> Result<Policy, BoxFault> { Ok(Policy::parse(path, &read(path)?)?) };
        self.policy.as_ref().map(parse).transpose()
    }

    /// What it takes to open bundles by these options, a policy that is named among them; with `system` also by the
    /// system's policy, which rules what comes into a store.
    pub fn access(&self, system: bool, repair: bool, scratch: PathBuf) -> Result<Access, BoxFault> {
        let mut gates = Vec::new();
        if let Some(path) = &self.allowed_signers {
            let trust = trust(path, self.revoked_keys.as_deref())?;
            gates.push(Gate { trust, required: self.require_signature, policy: None });
        }
        let mut policies = if system { system_policy()? } else { Vec::new() };
        policies.extend(self.named_policy()?);
        for policy in policies {
            // Without signers it restricts nothing: it cannot have the members that would.
            let Some(path) = policy.allowed_signers() else { continue };
            let trust = trust(path, policy.revoked_keys())?;
            gates.push(Gate { trust, required: policy.requires_signature(), policy: Some(policy) });
        }
        let mut identities = Identities::new(Some(passphrase()));
        for path in &self.identity {
            let content = String::from_utf8_lossy(&read(path)?).into_owned();
            identities.add(&path.display().to_string(), &content)?;
        }
        Ok(Access {
            identities,
            gates,
            repair,
            scratch,
            memory: BundleOptions::MEMORY,
            budget: Budget::default(),
            base: None,
            limits: DecodeLimits::default(),
            spare: false,
        })
    }
}

fn system_policy() -> Result<Vec<Policy>, BoxFault> {
    let system = Path::new(SYSTEM_POLICY);
    match read(system) {
        Ok(content) => Ok(vec![Policy::parse(system, &content)?]),
        Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        // A policy that cannot be read must not be taken for none.
        Err(error) => Err(error.into()),
    }
}

fn trust(allowed: &Path, revoked: Option<&Path>) -> Result<Trust, BoxFault> {
    let text = String::from_utf8_lossy(&read(allowed)?).into_owned();
    let allowed = AllowedSigners::parse(allowed, &text)?;
    let revoked = revoked.map(|path| -> Result<_, BoxFault> { Ok(RevokedKeys::parse(path, &read(path)?)?) });
    Ok(Trust { allowed, revoked: revoked.transpose()?.unwrap_or_default(), now: jiff::Timestamp::now() })
}

/// A small file as a whole.
pub fn read(path: &Path) -> Result<Vec<u8>, PathError> {
    let mut file = File::open(path).at("open", path)?;
    read_all(&mut file, FILE_MAX, "the file").at("read", path)
}

/// Passphrases come from `FERRY_PASSPHRASE`, or from the terminal.
pub fn passphrase() -> Passphrase {
    Arc::new(|what| match std::env::var("FERRY_PASSPHRASE") {
        Ok(passphrase) => Some(passphrase),
        Err(_) => ask(&format!("Passphrase of {what}: ")),
    })
}

/// The passphrase for something new: from a terminal it is asked for twice, and must be the same. An empty one is none:
/// everybody has it.
pub fn new_passphrase(what: &str) -> Option<String> {
    let given = |passphrase: &String| !passphrase.is_empty();
    if let Ok(passphrase) = std::env::var("FERRY_PASSPHRASE") {
        return Some(passphrase).filter(given);
    }
    let first = ask(&format!("Passphrase for {what}: ")).filter(given)?;
    ask("Once more: ").filter(|second| *second == first)
}

fn ask(question: &str) -> Option<String> {
    Terminal.secret(question)
}

/// Fails when the system's policy closes a way in.
pub fn permits(way: WayIn) -> Result<(), BoxFault> {
    for policy in AccessArgs::default().policies()? {
        policy.permits(way)?;
    }
    Ok(())
}
