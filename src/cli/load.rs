//! `ferry load`.

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};

use super::bundle_options::signer;
use super::input_options::WindowArgs;
use super::medium_options::MediumArgs;
use super::remote::RemoteArgs;
use super::render::human;
use super::trust::AccessArgs;
use super::{Global, UsageError, output, parse, threads};
use crate::archive::{Input, OpenOptions};
use crate::base::{AtPath, BoxFault, Ctx, ReadAt};
use crate::bundle::seal::Signer;
use crate::image::{Platform, Reference};
use crate::ops::load::{self, From, LoadRequest, Loaded};
use crate::ops::media;
use crate::ops::receipt::{Receipt, Scene};
use crate::ops::send;
use crate::store::{Conflict, LoadOptions, LoadReport};
use crate::transfer::home::{Reveal, StoreHome};
use crate::transfer::remote_file::RemoteFile;
use crate::transfer::ssh_config::Destination;

/// Load images from an archive
///
/// Takes what docker save, podman save, skopeo, ctr and crane write, OCI layouts as archive or directory, plain or
/// compressed with gzip, bzip2, xz or zstd, and bundles, by any of their volumes or their directory. All images of it
/// are loaded, or none.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// Read this file or directory instead of standard input; of a bundle in volumes, any of them, several in any order, or
    /// the name of the set; ssh://[USER@]HOST[:PORT]/PATH is read in place, as far as it is needed: by a ferry there where
    /// one is, or is worth bringing, else from here
    #[arg(short, long, value_name = "FILE")]
    input: Vec<PathBuf>,
    /// Do not show progress
    #[arg(short, long)]
    quiet: bool,
    /// The platform to take of images that are there for several [default: this host's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// What to do with a name that another image has
    #[arg(long, value_enum, default_value_t = OnConflict::Replace, value_name = "WHAT")]
    on_conflict: OnConflict,
    /// Give the image this name as well; there must be one alone
    #[arg(short, long, value_name = "NAME[:TAG]", value_parser = parse::image_name)]
    tag: Option<Reference>,
    /// Do not keep compressed layers as they came; registry digests are lost
    #[arg(long)]
    no_originals: bool,
    #[command(flatten)]
    window: WindowArgs,
    /// Where standard input is kept while it is read, when it is a pipe; `-i` needs none [default: the store's directory]
    #[arg(long, value_name = "DIR")]
    spool_dir: Option<PathBuf>,
    /// Mend a damaged bundle while it is read, as far as its parity goes
    #[arg(long)]
    repair: bool,
    /// Write what was loaded into this file, for `ferry verify --receipt` on the sending side; signed with the host's key
    /// (/etc/ssh/ssh_host_ed25519_key) if it can be read
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    receipt: Option<PathBuf>,
    /// Sign the receipt with this ssh-ed25519 key instead; with a public key the ssh agent signs
    #[arg(long, value_name = "KEY", requires = "receipt")]
    sign: Option<PathBuf>,
    /// When volumes are missing, run this shell command, which puts the next medium in, instead of asking on the terminal;
    /// see `ferry help save`
    #[arg(long, value_name = "COMMAND")]
    next_medium: Option<String>,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// What to do with a name that another image has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnConflict {
    /// The new image gets it
    Replace,
    /// The other image keeps it
    Keep,
    /// Nothing is loaded
    Fail,
}

/// Loads.
pub fn run(args: LoadArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let ctx = if args.quiet { global.quiet() } else { global.ctx.clone() };
    let mut paths = args.input.clone();
    let url = |path: &PathBuf| path.to_str().filter(|text| text.starts_with("ssh://")).map(str::to_owned);
    let input = match paths.len() {
        1 => From::One(match url(&paths[0]) {
            Some(url) => match remote(&args, &url, global, &ctx)? {
                Remote::Loaded(names) => {
                    for name in names {
                        output::line(format!("Loaded image: {}", output::clean(&name)))?;
                    }
                    return Ok(ExitCode::SUCCESS);
                }
                Remote::ToRead(input) => input,
            },
            None => Input::Path(paths.remove(0)),
        }),
        2.. => From::Volumes(paths),
        0 if std::io::stdin().is_terminal() => {
            return Err(UsageError("requested load from stdin, but stdin is a terminal; use -i FILE".into()).into());
        }
        0 => {
            let stdin = std::io::stdin().as_fd().try_clone_to_owned().at("open", "standard input")?;
            From::One(Input::File(File::from(stdin), "standard input".into()))
        }
    };
    let access = &args.access;
    let origin = match &input {
        From::One(input) => input.origin(),
        From::Volumes(paths) => paths.first().map_or_else(String::new, |path| path.display().to_string()),
    };
    // What cannot be written or signed is known before anything is loaded.
    let receipt = args.receipt.as_deref().map(|path| begin_receipt(path, args.sign.as_deref(), &ctx)).transpose()?;
    let store = if args.dry_run { global.store()? } else { global.store_to_write()? };
    let spool = args.spool_dir.unwrap_or_else(|| match global.root.is_dir() {
        true => global.root.clone(),
        false => std::env::temp_dir(),
    });
    let attendant = MediumArgs::attending(args.next_medium);
    let mut gathered = None;
    let named = match &input {
        From::One(Input::Path(path)) => std::slice::from_ref(path),
        From::One(_) => &[],
        From::Volumes(paths) => paths,
    };
    if named.iter().any(|path| attendant.concerns(path)) {
        gathered = media::gather(named, &spool, &attendant, &ctx)?;
    }
    let input = gathered.as_ref().map_or(input, |staged| From::One(Input::Path(staged.path().to_owned())));
    let mut access = access.access(true, args.repair, spool.clone())?;
    let limits = args.window.limits();
    access.limits = limits;
    let on_conflict = match args.on_conflict {
        OnConflict::Replace => Conflict::Replace,
        OnConflict::Keep => Conflict::Keep,
        OnConflict::Fail => Conflict::Fail,
    };
    let options = LoadOptions {
        on_conflict,
        keep_originals: !args.no_originals,
        threads: threads(),
        dry_run: args.dry_run,
        limits,
    };
    let open = OpenOptions { platform: args.platform, max_window: args.window.max_window, spool };
    let request = LoadRequest { input, open, access, options, name: args.tag };
    let Loaded { report, images, bundle } = load::load(&store, request, &ctx)?;
    output::print(if report.committed.is_some() { done(&report) } else { plan(&report) })?;
    if let Some((file, signer)) = receipt {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let store = global.root.display().to_string();
        let scene = Scene { input: origin, host, store, time: jiff::Timestamp::now() };
        let text = Receipt::new(&images, bundle.as_ref(), scene).seal(signer.as_ref())?;
        file.finish(text.as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What became of a file on another host.
enum Remote {
    /// A ferry there has given its images.
    Loaded(Vec<String>),
    /// It is read from here.
    ToRead(Input),
}

/// A file is worth a ferry that looks into it when it is so many times as large.
const WORTH_A_FERRY: u64 = 4;

/// Opens a file on another host, or has a ferry there look into it, which sends what is missing here and no more.
fn remote(args: &LoadArgs, url: &str, global: &Global, ctx: &Ctx) -> Result<Remote, BoxFault> {
    let (host, path) = Destination::with_path(url)?;
    let file = RemoteFile::open(args.remote.reach()?.connect(&host)?, &path)?;
    // Signatures, keys, receipts and the choice of a platform are about the file itself, and that is read here.
    let about_it = args.access.asks()? || args.receipt.is_some() || args.platform.is_some() || args.repair;
    let plain = !args.dry_run && args.tag.is_none() && args.window.max_window.is_none();
    if about_it || !plain || args.on_conflict != OnConflict::Replace {
        return Ok(Remote::ToRead(Input::At(Arc::new(file), url.to_owned())));
    }
    let mut agent = args.remote.agent()?;
    let own = |path: &PathBuf| path.metadata().map_or(u64::MAX, |meta| meta.len());
    agent.upload &= agent.binary.as_ref().is_some_and(|path| file.size() / WORTH_A_FERRY > own(path));
    let store = global.store_to_write()?;
    let load = LoadOptions { keep_originals: !args.no_originals, threads: threads(), ..LoadOptions::default() };
    let home = StoreHome::new(&store, load, Reveal::All);
    let mut remote = file.close()?;
    match send::fetch_archive(&mut *remote, &agent, &path, &home, ctx)? {
        Some(received) => Ok(Remote::Loaded(received.loaded)),
        None => Ok(Remote::ToRead(Input::At(Arc::new(RemoteFile::open(remote, &path)?), url.to_owned()))),
    }
}

/// The key that a host's sshd is known by.
const HOST_KEY: &str = "/etc/ssh/ssh_host_ed25519_key";

/// The file that a receipt will be in, and who signs it.
fn begin_receipt(path: &Path, key: Option<&Path>, ctx: &Ctx) -> Result<(output::Begun, Option<Signer>), BoxFault> {
    let signer = match key {
        Some(key) => Some(signer(key)?),
        None if File::open(HOST_KEY).is_ok() => Some(signer(Path::new(HOST_KEY))?),
        None => {
            ctx.warn(format!(
                "the receipt will not be signed: {HOST_KEY} cannot be read, and --sign names no other key"
            ));
            None
        }
    };
    Ok((output::Begun::new(path, 0o644)?, signer))
}

/// Docker's lines.
fn done(report: &LoadReport) -> String {
    let mut text = String::new();
    for change in report.plan.names.iter().filter(|change| change.applied) {
        if let Some(before) = change.before.filter(|before| *before != change.wanted) {
            text += &format!(
                "The image {} already exists, renaming the old one with ID {before} to empty string\n",
                change.name
            );
        }
    }
    for image in &report.plan.images {
        let mut named = false;
        for name in image.names.iter().filter(|name| name.tag().is_some()) {
            named = true;
            let kept = report.plan.names.iter().find(|change| change.name == *name && !change.applied);
            match kept.and_then(|change| change.before) {
                Some(before) => text += &format!("Kept name: {name} is {before}\n"),
                None => text += &format!("Loaded image: {name}\n"),
            }
        }
        if !named {
            text += &format!("Loaded image ID: {}\n", image.id);
        }
    }
    text
}

/// What a load would do.
fn plan(report: &LoadReport) -> String {
    let plan = &report.plan;
    let mut text = format!(
        "New layers: {}, {}\nLayers there already: {}\n",
        plan.layers.len(),
        human::size(plan.bytes(), 4),
        plan.present.len()
    );
    for planned in &plan.layers {
        let size = planned.layer.size.map_or_else(|| "size unknown".into(), |size| human::size(size, 4));
        text += &format!("Layer {} ({size})\n", planned.layer.diff_id);
    }
    for image in &plan.images {
        text += &format!("Image {}{}\n", image.id, if image.is_new { "" } else { " (there already)" });
    }
    for change in &plan.names {
        let what = match change.before {
            Some(before) if before == change.wanted => "as it is".to_owned(),
            Some(before) if change.applied => format!("moves from {before}"),
            Some(before) => format!("stays at {before}"),
            None => "new".into(),
        };
        text += &format!("Name {} = {} ({what})\n", change.name, change.wanted);
    }
    text
}
