//! `ferry verify`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::input_options::WindowArgs;
use super::plural::counted;
use super::trust::{self, AccessArgs};
use super::{Global, exit, output};
use crate::base::{AtPath, BoxFault, Class, durable};
use crate::bundle::BaseContents;
use crate::bundle::seal::{SignedBy, armor};
use crate::bundle::volume::{State, VolumeReport};
use crate::ops::base::StoreBase;
use crate::ops::receipt::Returned;
use crate::ops::verify::{self, Proven, Verified};

/// Check that a bundle is whole, and who signed it
///
/// Every volume is read once, from its first byte to its last; damage is located to the block, and parity says whether
/// `ferry repair` can mend it. Exits with 6 when anything is damaged or missing.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// A bundle: its directory, any of its volumes, or several
    #[arg(required_unless_present = "receipt", value_name = "BUNDLE")]
    paths: Vec<PathBuf>,
    /// Prove every layer against its digests too; a thin bundle is read with what the store has
    #[arg(long)]
    deep: bool,
    /// How to show the result
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    format: Format,
    /// Write what is signed and the signatures into this directory, for `ssh-keygen -Y verify -n ferry-bundle`
    #[arg(long, value_name = "DIR")]
    export_signature: Option<PathBuf>,
    /// Check this receipt instead, which `ferry load --receipt` wrote, and whether it is for BUNDLE when that is named;
    /// --allowed-signers has the hosts' keys then
    #[arg(long, value_name = "FILE", conflicts_with_all = ["deep", "export_signature", "policy"])]
    receipt: Option<PathBuf>,
    #[command(flatten)]
    window: WindowArgs,
    #[command(flatten)]
    access: AccessArgs,
}

/// How to show the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Lines
    Text,
    /// One JSON object
    Json,
}

/// Verifies.
pub fn run(args: VerifyArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    if let Some(path) = &args.receipt {
        return receipt(path, &args, global);
    }
    let mut access = args.access.access(true, false, std::env::temp_dir())?;
    access.limits = args.window.limits();
    let base = || -> Result<Arc<dyn BaseContents>, BoxFault> { Ok(Arc::new(StoreBase::new(global.store()?))) };
    let verified = verify::verify(&args.paths, &access, args.deep.then_some(&base), &global.ctx)?;
    if let Some(directory) = &args.export_signature {
        std::fs::create_dir_all(directory).at("create", directory)?;
        durable::write(&directory.join("statement"), verified.statement.as_bytes(), 0o644)?;
        for (blob, number) in verified.signatures.iter().zip(1..) {
            let name = if number == 1 { "statement.sig".into() } else { format!("statement.{number}.sig") };
            durable::write(&directory.join(name), armor(blob).as_bytes(), 0o644)?;
        }
    }
    if args.format == Format::Json {
        output::line(json(&verified).to_string())?;
    }
    if let Some(fault) = verified.unproven {
        return Err(fault);
    }
    if args.format == Format::Text {
        output::print(text(&verified))?;
    }
    if verified.report.intact() {
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::from(exit::code(Class::Integrity)))
}

/// Checks a receipt, and the bundle against it.
fn receipt(path: &Path, args: &VerifyArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let returned = Returned::parse(path, &trust::read(path)?)?;
    // No policy, and none can be named: what comes in here is a receipt.
    let mut access = args.access.access(false, false, std::env::temp_dir())?;
    let mut signed_by = Vec::new();
    let gates = std::mem::take(&mut access.gates);
    for gate in gates.iter().filter(|gate| gate.required || returned.signed()) {
        signed_by = returned.verify(&gate.trust)?;
    }
    let compared = match args.paths.is_empty() {
        true => None,
        false => Some(returned.compare(&args.paths, &access, &global.ctx)?),
    };
    let receipt = &returned.receipt;
    if args.format == Format::Json {
        let signers: Vec<Value> = signed_by.iter().map(signer).collect();
        let value = json!({
            "receipt": receipt,
            "signed": returned.signed(),
            "signedBy": signers,
            "bundleMatches": compared.is_some(),
            "imagesCompared": compared == Some(true),
        });
        output::line(value.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let signer_line = |principals: &[String], fingerprint: &str| {
        format!("by {} ({})", output::field(&principals.join(", ")), output::field(fingerprint))
    };
    let [loaded, host, store, input] =
        [&receipt.loaded, &receipt.host, &receipt.store, &receipt.input].map(|text| output::field(text));
    let mut text = format!("Loaded:  {loaded} on {host} ({store})\n");
    text += &match (returned.signed(), &signed_by[..]) {
        (false, _) => "Signed:  no\n".to_owned(),
        (true, []) => "Signed:  checked against no keys: give --allowed-signers\n".to_owned(),
        (true, signers) => {
            signers.iter().map(|s| format!("Signed:  {}\n", signer_line(&s.principals, &s.fingerprint))).collect()
        }
    };
    match &receipt.bundle {
        None => text += &format!("Archive: {input}\n"),
        Some(bundle) => {
            text += &format!("Bundle:  {input} ({})\n", output::field(&bundle.root));
            for signer in &bundle.signed_by {
                text += &format!("         signed {}\n", signer_line(&signer.principals, &signer.fingerprint));
            }
        }
    }
    for image in &receipt.images {
        text += &format!("Image:   {} {}\n", output::field(&image.id), output::field(&image.names.join(" ")));
    }
    text += match compared {
        None => "",
        Some(true) => "The receipt is for this bundle, and names all its images.\n",
        Some(false) => "The receipt is for this bundle; its images cannot be seen without its key (--identity).\n",
    };
    output::print(text)?;
    Ok(ExitCode::SUCCESS)
}

fn signer(signer: &SignedBy) -> Value {
    json!({"principals": signer.principals, "fingerprint": signer.fingerprint})
}

fn state(volume: &VolumeReport) -> &'static str {
    match volume.state {
        State::Intact => "intact",
        State::Damaged => "damaged",
        State::Missing => "missing",
    }
}

fn text(verified: &Verified) -> String {
    // Enough to see where it is; --format json has all.
    const RUNS: usize = 8;
    let report = &verified.report;
    let mut text = format!("Set:       {}\nRoot:      blake3:{}\n", verified.set, verified.root);
    text += &format!("Encrypted: {}\n", if verified.encrypted { "yes" } else { "no" });
    if verified.signed_by.is_empty() {
        let what = match verified.signatures.len() {
            0 => "no".to_owned(),
            n => format!("{}, checked against no keys: give --allowed-signers", counted(n, "signature")),
        };
        text += &format!("Signed:    {what}\n");
    }
    for signer in &verified.signed_by {
        text += &format!("Signed:    by {} ({})\n", output::field(&signer.principals.join(", ")), signer.fingerprint);
    }
    for volume in &report.volumes {
        let kind = if volume.parity { " (parity)" } else { "" };
        // Whatever has the name of a missing volume was looked at, and is not it.
        let taken = volume.state == State::Missing && volume.path.exists();
        let taken = if taken { ", and another file has its name" } else { "" };
        let path = output::field(&volume.path.display().to_string());
        text += &format!("Volume {}{kind}: {path}: {}{taken}\n", volume.number, state(volume));
        if volume.state == State::Damaged && volume.len != volume.expected {
            text += &format!("    {} bytes long, should be {}\n", volume.len, volume.expected);
        }
        for run in volume.damaged.iter().take(RUNS) {
            text += &format!("    bytes {} to {}\n", run.offset, run.offset + run.len - 1);
        }
        if volume.damaged.len() > RUNS {
            text += &format!("    and {}\n", counted(volume.damaged.len() - RUNS, "more place"));
        }
    }
    text += &format!("Blocks:    {} of {} bytes, {} lost", report.blocks, report.block, report.lost_blocks);
    if report.unchecked_blocks > 0 {
        text += &format!(" ({} cannot be checked: their table is damaged)", report.unchecked_blocks);
    }
    text += &format!("\nParity:    {}, {} lost\n", counted(report.parity_blocks, "block"), report.lost_parity);
    if let Some(Proven { images, layers, in_base }) = verified.proven {
        let based = if in_base == 0 { String::new() } else { format!("; {in_base} more are in the store") };
        text += &format!("Proven:    {}, {}{based}\n", counted(images, "image"), counted(layers, "layer"));
    }
    text += match (report.intact(), report.repairable()) {
        (true, _) => "The bundle is intact.\n",
        (false, true) => "The bundle is damaged; ferry repair can mend it.\n",
        (false, false) => "",
    };
    if !report.repairable() {
        text += &format!("The bundle cannot be repaired: {}.\n", output::field(&report.losses()));
    }
    output::clean(&text)
}

fn json(verified: &Verified) -> Value {
    let report = &verified.report;
    let volumes: Vec<Value> = report
        .volumes
        .iter()
        .map(|volume| {
            let damaged: Vec<Value> =
                volume.damaged.iter().map(|run| json!({"offset": run.offset, "bytes": run.len})).collect();
            json!({
                "number": volume.number,
                "parity": volume.parity,
                "path": volume.path.display().to_string(),
                "state": state(volume),
                "bytes": volume.len,
                "expectedBytes": volume.expected,
                "damaged": damaged,
            })
        })
        .collect();
    let signed: Vec<Value> = verified.signed_by.iter().map(signer).collect();
    json!({
        "set": verified.set.to_string(),
        "root": format!("blake3:{}", verified.root),
        "encrypted": verified.encrypted,
        "signatures": verified.signatures.len(),
        "signedBy": signed,
        "intact": report.intact(),
        "repairable": report.repairable(),
        "blockBytes": report.block,
        "blocks": report.blocks,
        "lostBlocks": report.lost_blocks,
        "uncheckedBlocks": report.unchecked_blocks,
        "parityBlocks": report.parity_blocks,
        "lostParityBlocks": report.lost_parity,
        "blocksBeyondRepair": report.beyond_repair,
        "volumes": volumes,
        "error": verified.unproven.as_ref().map(ToString::to_string),
        "proven": verified.proven.map(|p| json!({"images": p.images, "layers": p.layers, "layersInBase": p.in_base})),
    })
}
