//! `ferry send`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::plural::counted;
use super::remote::RemoteArgs;
use super::render::human;
use super::trust::AccessArgs;
use super::{Global, UsageError, exit, output, parse, threads};
use crate::archive::{Input, OpenOptions};
use crate::base::{AtPath, BoxFault, Ctx};
use crate::bundle::{BundleOptions, Level};
use crate::image::{Image, Platform};
use crate::ops::open;
use crate::ops::send::{self, Shipment};
use crate::transfer::engine::Target;
use crate::transfer::ground::Ground;
use crate::transfer::send::{SendOptions, Sent};
use crate::transfer::ssh_config::Destination;

/// Send images to other hosts by ssh, only what they lack
///
/// The far side needs nothing but sshd: without a ferry there, this one is copied into the user's cache folder. A
/// transfer that breaks off goes on where it stopped when it is started again.
#[derive(Debug, Args)]
#[command(
    override_usage = "ferry send [OPTIONS] IMAGE... [USER@]HOST[:PORT]\n       ferry send [OPTIONS] --host HOST [--host HOST]... IMAGE...\n       ferry send [OPTIONS] -i FILE [IMAGE...] [USER@]HOST[:PORT]"
)]
pub struct SendArgs {
    /// Images, by name, ID or digest; the last word is the host unless --host or --hosts names some
    #[arg(value_name = "IMAGE")]
    words: Vec<String>,
    /// Send images of this archive, OCI layout or bundle instead of the store's; all of them when none is named
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Who gets them on the far side: ferry, docker, podman, containerd, k3s, dir:PATH, or auto: ferry where its store has
    /// images, else the first that answers of docker, k3s, podman and containerd
    #[arg(long, default_value = "ferry", value_name = "WHO")]
    to: Target,
    /// The platform to take of images of an archive that are there for several [default: this host's]
    #[arg(long, requires = "input", value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// A host to send to; may be given several times
    #[arg(long, value_name = "[USER@]HOST[:PORT]")]
    host: Vec<Destination>,
    /// Send to the hosts in this file, one a line; # begins a comment
    #[arg(long, value_name = "FILE")]
    hosts: Option<PathBuf>,
    /// Hosts at once
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=256))]
    parallel: u64,
    /// How hard to compress: fast, default, max, or 1 to 22 [default: as hard as the line leaves time for]
    #[arg(long, value_name = "LEVEL")]
    level: Option<Level>,
    /// At most this many bytes a second to each host
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    limit_rate: Option<u64>,
    /// Leave out compressed layers' registry form; registry digests do not survive
    #[arg(long)]
    no_originals: bool,
    /// Show what would be sent, and send nothing
    #[arg(long)]
    dry_run: bool,
    /// Print a JSON object for each host
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArgs,
    #[command(flatten)]
    access: AccessArgs,
}

/// Sends.
pub fn run(mut args: SendArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let mut hosts = std::mem::take(&mut args.host);
    if let Some(file) = &args.hosts {
        let text = std::fs::read_to_string(file).at("read", file)?;
        for line in text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
            if !line.is_empty() {
                hosts.push(line.parse()?);
            }
        }
    }
    if hosts.is_empty() {
        // The last word, as scp has it.
        let host = args.words.pop().unwrap_or_default();
        hosts.push(host.parse()?);
    }
    if args.words.is_empty() && args.input.is_none() {
        return Err(UsageError("no image is named: ferry send IMAGE... HOST".into()).into());
    }
    let ctx = &global.ctx;
    let store = global.store()?;
    let spool = std::env::temp_dir();
    let options = SendOptions {
        bundle: BundleOptions {
            level: Level::DEFAULT,
            threads: threads(),
            memory: BundleOptions::MEMORY,
            keep_originals: !args.no_originals,
            spool_dir: spool.clone(),
        },
        level: args.level,
        hints: send::hints(&store, ctx)?,
        rate: args.limit_rate,
        dry_run: args.dry_run,
    };
    match args.input.take() {
        None => {
            let (source, images) = send::chosen(&store, &args.words, ctx)?;
            let ground = Ground { store: Some(&store), source: &source, bundle: None, threads: threads() };
            to_hosts(&args, &hosts, ground, &images, options, ctx)
        }
        Some(path) => {
            // What lies in the store is built upon, so it must stay.
            let _using = store.using(ctx)?;
            let open = OpenOptions { platform: args.platform.clone(), max_window: None, spool: spool.clone() };
            let access = args.access.access(false, false, spool)?;
            let opened = open::open_any(Input::Path(path), &open, &access, ctx)?;
            let images = send::picked(opened.source(), &args.words)?;
            let (source, bundle) = (opened.source(), opened.bundle());
            let mut options = options;
            send::archive_hints(opened.source(), &mut options.hints);
            let ground = Ground { store: Some(&store), source, bundle, threads: threads() };
            to_hosts(&args, &hosts, ground, &images, options, ctx)
        }
    }
}

fn to_hosts(
    args: &SendArgs,
    hosts: &[Destination],
    ground: Ground<'_>,
    images: &[Image],
    options: SendOptions,
    ctx: &Ctx,
) -> Result<ExitCode, BoxFault> {
    let (reach, agent) = (args.remote.reach()?, args.remote.agent()?);
    let parallel = usize::try_from(args.parallel).unwrap_or(1);
    let to = args.to.clone();
    let shipment = Shipment { ground, images, reach: &reach, agent: &agent, to, options, parallel };
    let one = hosts.len() == 1;
    let results = send::send(&shipment, hosts, ctx, &|host, result| {
        if let Err(fault) = result
            && !one
        {
            exit::tell(&**fault, Some(&host.to_string()));
        }
    });
    let mut worst = None;
    for (host, result) in hosts.iter().zip(results) {
        match result {
            Ok(sent) => output::line(told(host, &sent, args))?,
            Err(fault) if one => return Err(fault),
            Err(fault) => {
                if args.json {
                    output::line(json!({"host": host.to_string(), "error": fault.to_string()}).to_string())?;
                }
                worst = worst.or(Some(fault));
            }
        }
    }
    Ok(worst.map_or(ExitCode::SUCCESS, |fault| ExitCode::from(exit::code(fault.class()))))
}

fn told(host: &Destination, sent: &Sent, args: &SendArgs) -> String {
    let crossing = sent.stream - sent.resumed;
    if args.json {
        return json!({
            "host": host.to_string(), "stream": sent.stream, "resumed": sent.resumed, "wire": sent.wire,
            "layers": sent.layers, "layers_present": sent.layers_present, "loaded": sent.loaded, "level": sent.level,
            "dry_run": args.dry_run, "to": sent.to, "uploaded": sent.uploaded,
        })
        .to_string();
    }
    let verb = if args.dry_run { "would send" } else { "sent" };
    let layers = format!("{} of {} there already", sent.layers_present, counted(sent.layers, "layer"));
    let ours = sent.to == Target::Ferry.to_string();
    let to = if ours { String::new() } else { format!(" to {}", sent.to) };
    let mut text = format!("{host}: {verb} {} ({crossing} bytes){to}; {layers}", human::size(crossing, 3));
    if let Some(ferry) = sent.uploaded.as_ref().filter(|_| !args.dry_run && ours) {
        let there = args.remote.command_there(ferry);
        text += &format!("\n{host}: no ferry is installed there; this one is: {there} run IMAGE");
    }
    output::clean(&text)
}
