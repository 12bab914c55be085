//! `ferry inventory`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::bundle_options::{encryption, signer, unless_interrupted};
use super::plural::counted;
use super::{Global, MissingError, output};
use crate::base::BoxFault;
use crate::bundle::Inventory;
use crate::bundle::carry::{self, Target};
use crate::ops::{base, ledger};

/// Write down what this host has, for bundles that leave it out
///
/// Carry the file to where bundles are made: `ferry save --base FILE -o new.ferry …` then leaves out every layer and
/// file that is in it. It holds IDs alone, 16 bytes a file.
#[derive(Debug, Args)]
pub struct InventoryArgs {
    /// The file to write; - is standard output
    #[arg(short, long, value_name = "FILE", required_unless_present_any = ["unpin", "pins", "forget_site"])]
    output: Option<PathBuf>,
    /// What bundles call this host when something is missing [default: the file's name]
    #[arg(long, value_name = "NAME", requires = "output")]
    label: Option<String>,
    /// Keep everything that is in the inventory, whatever rmi and prune are told, until the label is unpinned
    #[arg(long, requires = "output")]
    pin: bool,
    /// Sign with this ssh-ed25519 key; with a public key the ssh agent signs
    #[arg(long, value_name = "KEY", requires = "output")]
    sign: Option<PathBuf>,
    /// Encrypt to age1…, to "ssh-ed25519 …", or to all recipients in a file
    #[arg(long, value_name = "RECIPIENT", conflicts_with = "passphrase", requires = "output")]
    encrypt_to: Vec<String>,
    /// Encrypt with a passphrase, from FERRY_PASSPHRASE or the terminal
    #[arg(long, requires = "output")]
    passphrase: bool,
    /// Let go of what was pinned under this label
    #[arg(long, value_name = "NAME", conflicts_with = "output")]
    unpin: Option<String>,
    /// List what is pinned
    #[arg(long, conflicts_with_all = ["output", "unpin"])]
    pins: bool,
    /// Forget what `save --sent-to` noted of this site, so that its next bundle is whole
    #[arg(long, value_name = "SITE", conflicts_with_all = ["output", "unpin", "pins"])]
    forget_site: Option<String>,
}

/// Writes it.
pub fn run(args: InventoryArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let store = global.store()?;
    if args.pins {
        let line = |pin: &crate::store::Pin| format!("{}\t{}\n", pin.name, counted(pin.layers.len(), "layer"));
        output::print(output::clean(&store.pins()?.iter().map(line).collect::<String>()))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(name) = &args.unpin {
        if !store.unpin(name, &global.ctx)? {
            return Err(MissingError(format!("nothing is pinned under {name:?}")).into());
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(site) = &args.forget_site {
        ledger::forget(&store, site)?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(path) = &args.output else { return Ok(ExitCode::SUCCESS) };
    let signer = unless_interrupted(args.sign.as_deref().map(signer).transpose(), &global.ctx)?;
    let recipients = encryption(args.passphrase, &args.encrypt_to, "the inventory", &global.ctx)?;
    let own = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let store = if args.pin { global.store_to_write()? } else { store };
    let write = |inventory: &Inventory| -> Result<(), BoxFault> {
        let bytes = inventory.encode()?;
        if signer.is_none() && recipients.is_none() {
            return output::Begun::new(path, 0o644)?.finish(&bytes);
        }
        let seal =
            |target: Target<'_>| carry::write_inventory(&bytes, target, recipients, signer.as_ref(), &global.ctx);
        match output::Place::of(Some(path))? {
            output::Place::File(path) => seal(Target::Path(&path)),
            output::Place::Through(direct) => direct.write(|out| seal(Target::Pipe(out))),
        }
    };
    base::inventory(&store, args.label.unwrap_or(own), args.pin, write, &global.ctx)?;
    Ok(ExitCode::SUCCESS)
}
