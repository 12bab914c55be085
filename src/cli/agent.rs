//! `ferry agent`: the far side of `send` and `fetch`.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::trust::AccessArgs;
use super::{Global, threads, trust};
use crate::archive::{Input, OpenOptions};
use crate::base::{AtPath, BoxFault};
use crate::bundle::seal::WayIn;
use crate::bundle::{BundleOptions, Level};
use crate::ops::open;
use crate::ops::send::{self, Visible};
use crate::store::LoadOptions;
use crate::transfer::engine::{EngineHome, Target};
use crate::transfer::home::StoreHome;
use crate::transfer::patience::Patient;
use crate::transfer::send::SendOptions;
use crate::transfer::session::Session;

/// A near side that is silent for this long has gone: what it began can be taken up by another.
const SILENCE: Duration = Duration::from_secs(60);

/// Answer another ferry on standard input and output (started by send and fetch)
///
/// A forced command in authorized_keys allows a key this and nothing else, and says what its owner may know of:
/// command="ferry agent --reveal 'team/*'",restrict ssh-ed25519 AAAA...
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Let the other side know of nothing here, and fetch nothing: everything is sent each time
    #[arg(long, conflicts_with = "reveal")]
    reveal_nothing: bool,
    /// Let the other side know of, build upon and fetch images of these names only (a pattern); may be repeated
    #[arg(long, value_name = "PATTERN")]
    reveal: Vec<String>,
    /// Who gets the images: ferry, docker, podman, containerd, k3s, dir:PATH, or auto
    #[arg(long, default_value = "ferry", value_name = "WHO")]
    to: Target,
    /// Give images of this archive or bundle, and take none
    #[arg(long, value_name = "FILE", conflicts_with_all = ["reveal", "reveal_nothing", "to"])]
    input: Option<PathBuf>,
}

impl AgentArgs {
    /// Finds out who is meant by `auto`, before this process is another user to anybody.
    pub fn settle(&mut self, root: &Path) {
        let images = root.join("image/overlay2/imagedb/content/sha256");
        let has_images = images.read_dir().is_ok_and(|mut images| images.next().is_some());
        self.to = std::mem::take(&mut self.to).settled(has_images);
    }

    /// Whether podman gets the images.
    pub fn is_for_podman(&self) -> bool {
        self.to == Target::Podman
    }
}

/// Answers.
pub fn run(args: AgentArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    as_root_of_podman(&args.to, &global.root)?;
    let bundle = BundleOptions {
        level: Level::DEFAULT,
        threads: threads(),
        memory: BundleOptions::MEMORY,
        keep_originals: true,
        spool_dir: std::env::temp_dir(),
    };
    let sending = SendOptions { bundle, level: None, hints: Vec::new(), rate: None, dry_run: false };
    // Not the standard library's handles: what these hold in their own buffers no poll knows of.
    let from = std::io::stdin().as_fd().try_clone_to_owned().at("open", "standard input")?;
    let to = std::io::stdout().as_fd().try_clone_to_owned().at("open", "standard output")?;
    let from = Patient::shared(File::from(from), SILENCE);
    let to = Patient::shared(File::from(to), SILENCE);
    let mut session = Session::far(Box::new(from), Box::new(std::io::BufWriter::new(to)))?;
    let result = serve(&mut session, args, &sending, global);
    if let Err(fault) = &result {
        session.fail(&**fault);
    }
    result.map(|()| ExitCode::SUCCESS)
}

/// Opens what the images go into or come from, and has the conversation.
fn serve(session: &mut Session<'_>, args: AgentArgs, sending: &SendOptions, global: &Global) -> Result<(), BoxFault> {
    let ctx = &global.ctx;
    if let Some(path) = args.input {
        let spool = std::env::temp_dir();
        let open = OpenOptions { platform: None, max_window: None, spool: spool.clone() };
        let access = AccessArgs::default().access(false, false, spool)?;
        return send::give_archive(session, &open::open_any(Input::Path(path), &open, &access, ctx)?, sending, ctx);
    }
    let may = || trust::permits(WayIn::Receive);
    let folder = global.root.join("ferry/transfers");
    if args.to != Target::Ferry {
        std::fs::create_dir_all(&folder).at("create", &folder)?;
    }
    if let Some(home) = EngineHome::open(&args.to, folder)? {
        return send::answer(session, &home, None, &may, sending, ctx);
    }
    let store = global.store_to_write()?;
    let patterns = args.reveal_nothing || !args.reveal.is_empty();
    let visible = Visible { images: patterns.then_some(args.reveal) };
    let load = LoadOptions { threads: threads(), ..LoadOptions::default() };
    let home = StoreHome::new(&store, load, visible.reveal(&store, ctx)?);
    send::answer(session, &home, Some((&store, &visible)), &may, sending, ctx)
}

/// podman's store of a user belongs to the subordinate IDs of that user: they can be read in its user namespace.
fn as_root_of_podman(to: &Target, root: &Path) -> Result<(), BoxFault> {
    use std::os::unix::process::CommandExt;
    if *to != Target::Podman || rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let own = std::env::current_exe().at("find", "this program")?;
    let mut command = std::process::Command::new("podman");
    command.arg("unshare").arg(own).args(std::env::args_os().skip(1)).args(["--to", "podman", "--root"]).arg(root);
    let error = command.exec();
    tracing::info!(%error, "podman unshare does not work here");
    Ok(())
}
