//! The command line: parses flags, calls one of `ops`, renders. The only module that prints, reads the environment or
//! knows exit codes. One file a command.

mod absent;
mod agent;
mod archive_options;
mod completion;
mod bundle_options;
mod convert;
mod copy;
mod df;
mod diff;
mod exit;
mod extract;
mod fsck;
mod hint;
mod ask;
mod fetch;
mod filter;
mod container;
mod helper;
mod history;
mod image;
mod images;
mod import;
mod info;
mod input_options;
mod inspect;
mod inventory;
mod load;
mod ls;
mod man;
mod media;
mod medium_options;
mod moment;
mod network;
mod output;
mod parse;
mod plural;
mod progress;
mod prune;
mod remote;
mod render;
mod repair;
mod rmi;
mod rootless;
mod save;
mod send;
mod system;
mod tag;
mod trust;
mod typed;
mod verify;
mod version;
mod volume;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::base::{BoxFault, Cancel, Class, Ctx, Fault};
use crate::store::{self, Store};

/// Carries container images where there is no network, and runs them there.
#[derive(Debug, Parser)]
#[command(name = "ferry", version, propagate_version = false, args_override_self = true, max_term_width = 100, after_long_help = exit::TABLE)]
pub struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

/// Options that every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// The store's directory [default: /var/lib/ferry, or ~/.local/share/ferry for users]
    #[arg(long, global = true, env = "FERRY_ROOT", hide_env_values = true, value_name = "DIR")]
    root: Option<PathBuf>,
    /// How much to log to standard error
    #[arg(long, global = true, value_enum, default_value_t = LogLevel::Warn, value_name = "LEVEL")]
    log_level: LogLevel,
    /// How to show progress on standard error; `auto` draws on a terminal and is silent elsewhere
    ///
    /// `json` writes an object a line. Its `event` is `began` (with task, action, object, total), `sized` (task, total),
    /// `advanced` (task, done), `ended` (task, completed) or `warning` (text). Amounts are bytes; a total that is not known yet is
    /// null.
    #[arg(long, global = true, value_enum, default_value_t = ProgressMode::Auto, value_name = "HOW")]
    progress: ProgressMode,
}

/// How much to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// How to show progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum ProgressMode {
    Auto,
    Plain,
    Json,
    None,
}

/// Each command's arguments, in its own file. Help lists them in this order.
#[derive(Debug, Subcommand)]
enum Command {
    // Moving images.
    Load(load::LoadArgs),
    Save(save::SaveArgs),
    Send(send::SendArgs),
    Fetch(fetch::FetchArgs),
    Convert(convert::ConvertArgs),
    Import(import::ImportArgs),
    Copy(copy::CopyArgs),
    Media(media::MediaArgs),
    Inventory(inventory::InventoryArgs),
    // Bundles.
    Ls(ls::LsArgs),
    Verify(verify::VerifyArgs),
    Repair(repair::RepairArgs),
    Extract(Box<extract::ExtractArgs>),
    // Images.
    Images(images::ImagesArgs),
    Inspect(inspect::InspectArgs),
    History(history::HistoryArgs),
    Tag(tag::TagArgs),
    Rmi(rmi::RmiArgs),
    Prune(prune::PruneArgs),
    Image(image::ImageArgs),
    // Containers.
    Run(Box<container::run::RunArgs>),
    Create(container::create::CreateArgs),
    Start(container::start::StartArgs),
    Exec(container::exec::ExecArgs),
    Attach(container::attach::AttachArgs),
    Logs(container::logs::LogsArgs),
    Ps(container::ps::PsArgs),
    Top(container::top::TopArgs),
    Stats(container::stats::StatsArgs),
    Port(container::port::PortArgs),
    Cp(container::cp::CpArgs),
    Diff(diff::DiffArgs),
    Commit(container::commit::CommitArgs),
    Export(container::export::ExportArgs),
    Update(container::update::UpdateArgs),
    Rename(container::rename::RenameArgs),
    Pause(container::pause::PauseArgs),
    Unpause(container::pause::UnpauseArgs),
    Stop(container::stop::StopArgs),
    Restart(container::restart::RestartArgs),
    Kill(container::kill::KillArgs),
    Wait(container::wait::WaitArgs),
    Rm(container::rm::RmArgs),
    Events(container::events::EventsArgs),
    Container(container::group::ContainerArgs),
    // What is around them.
    Network(network::NetworkArgs),
    Volume(volume::VolumeArgs),
    System(system::SystemArgs),
    Info(info::InfoArgs),
    Df(df::DfArgs),
    Fsck(fsck::FsckArgs),
    Version(version::VersionArgs),
    Man(man::ManArgs),
    Completion(completion::CompletionArgs),
    // For another ferry.
    #[command(hide = true)]
    Agent(agent::AgentArgs),
}

/// What every command is given beside its own arguments.
pub struct Global {
    /// The store's directory, resolved.
    pub root: PathBuf,
    /// Progress and interruption.
    pub ctx: Ctx,
}

impl Global {
    fn resolve(args: &GlobalArgs) -> Self {
        let progress = progress::choose(args.progress);
        let cancel = Cancel::new();
        crate::sys::signal::cancel_on_interrupt(cancel.clone());
        Self { root: args.root.clone().unwrap_or_else(default_root), ctx: Ctx::new(Arc::from(progress), cancel) }
    }
}

impl Global {
    /// The store; where there is none, an empty one. Commands that write make it.
    pub fn store(&self) -> Result<Store, BoxFault> {
        Ok(Store::open(&self.root, store_options())?)
    }

    /// The store, made where there is none.
    pub fn store_to_write(&self) -> Result<Store, BoxFault> {
        Ok(Store::open_or_create(&self.root, store_options())?)
    }

    /// The same without progress; warnings are still shown.
    pub fn quiet(&self) -> Ctx {
        Ctx::new(Arc::from(progress::choose(ProgressMode::None)), self.ctx.cancel.clone())
    }
}

/// How many threads work: one a core.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A command line that makes no sense for a reason that the parser cannot know.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

impl Fault for UsageError {
    fn class(&self) -> Class {
        Class::Usage
    }
}

/// Something named that is not there.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct MissingError(String);

impl Fault for MissingError {
    fn class(&self) -> Class {
        Class::NotFound
    }
}

/// Whose files the store's are: root's of the host, root's in a user namespace, or one user's alone.
fn store_options() -> store::Options {
    let root = rustix::process::geteuid().is_root();
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let fields: Vec<u64> = map.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    if root && matches!(fields[..], [] | [0, 0, 0xffff_ffff]) {
        return store::Options::default();
    }
    let ids: u64 = fields.chunks(3).filter_map(|line| line.get(2)).sum();
    store::Options { userxattr: true, single_id: !root || ids == 1 }
}

/// The system's state directory for root, the user's data directory otherwise.
fn default_root() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/ferry");
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
    data.unwrap_or_else(|| PathBuf::from("/var/tmp")).join("ferry")
}

fn run(cli: Cli) -> Result<ExitCode, BoxFault> {
    let global = Global::resolve(&cli.global);
    match cli.command {
        Command::Completion(args) => completion::run(args, &global),
        Command::Agent(args) => agent::run(args, &global),
        Command::Convert(args) => convert::run(args, &global),
        Command::Copy(args) => copy::run(args, &global),
        Command::Df(args) => df::run(args, &global),
        Command::Diff(args) => diff::run(args, &global),
        Command::Fsck(args) => fsck::run(args, &global),
        Command::Fetch(args) => fetch::run(args, &global),
        Command::Attach(args) => container::attach::run(args, &global),
        Command::Commit(args) => container::commit::run(args, &global),
        Command::Container(args) => container::group::run(args, &global),
        Command::Cp(args) => container::cp::run(args, &global),
        Command::Events(args) => container::events::run(args, &global),
        Command::Exec(args) => container::exec::run(args, &global),
        Command::Export(args) => container::export::run(args, &global),
        Command::Extract(args) => extract::run(*args, &global),
        Command::Logs(args) => container::logs::run(args, &global),
        Command::Port(args) => container::port::run(args, &global),
        Command::Ps(args) => container::ps::run(args, &global),
        Command::Top(args) => container::top::run(args, &global),
        Command::Create(args) => container::create::run(args, &global),
        Command::Kill(args) => container::kill::run(args, &global),
        Command::Pause(args) => container::pause::pause(args, &global),
        Command::Rename(args) => container::rename::run(args, &global),
        Command::Restart(args) => container::restart::run(args, &global),
        Command::Rm(args) => container::rm::run(args, &global),
        Command::Run(args) => container::run::run(*args, &global),
        Command::Start(args) => container::start::run(args, &global),
        Command::Stats(args) => container::stats::run(args, &global),
        Command::System(args) => system::run(args, &global),
        Command::Stop(args) => container::stop::run(args, &global),
        Command::Unpause(args) => container::pause::unpause(args, &global),
        Command::Update(args) => container::update::run(args, &global),
        Command::Wait(args) => container::wait::run(args, &global),
        Command::History(args) => history::run(args, &global),
        Command::Image(args) => image::run(args, &global),
        Command::Images(args) => images::run(args, &global),
        Command::Import(args) => import::run(args, &global),
        Command::Info(args) => info::run(args, &global),
        Command::Inspect(args) => inspect::run(args, &global),
        Command::Network(args) => network::run(args, &global),
        Command::Load(args) => load::run(args, &global),
        Command::Man(args) => man::run(args, &global),
        Command::Prune(args) => prune::run(args, &global),
        Command::Repair(args) => repair::run(args, &global),
        Command::Rmi(args) => rmi::run(args, &global),
        Command::Save(args) => save::run(args, &global),
        Command::Media(args) => media::run(args, &global),
        Command::Send(args) => send::run(args, &global),
        Command::Tag(args) => tag::run(args, &global),
        Command::Inventory(args) => inventory::run(args, &global),
        Command::Ls(args) => ls::run(args, &global),
        Command::Verify(args) => verify::run(args, &global),
        Command::Version(args) => version::run(args, &global),
        Command::Volume(args) => volume::run(args, &global),
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // ferry starts itself again for work beside a container; such a process reads no flags.
    if let Some(code) = helper::run() {
        return code;
    }
    match std::env::args_os().next() {
        Some(name) if name == crate::runtime::net::helper::ARG0 => crate::runtime::net::helper::main().into(),
        Some(name) if name == crate::runtime::spec::INIT_PATH => {
            let code = crate::runtime::init::reaper::main(std::env::args_os().skip(1).collect());
            ExitCode::from((code & 0xff) as u8)
        }
        _ => main_with(carried(std::env::args_os().collect())),
    }
}

/// What a bundle's start script runs: `ferry carried BUNDLE [ARGUMENT]...` loads the bundle, or is the command that the
/// arguments say, `{}` standing for the bundle. Any other command line stays as it is.
fn carried(mut args: Vec<OsString>) -> Vec<OsString> {
    if args.len() < 3 || args[1] != "carried" {
        return args;
    }
    let bundle = args[2].clone();
    args.drain(1..3);
    let option = |arg: &OsString| arg.as_encoded_bytes().starts_with(b"-");
    if args.get(1).is_none_or(option) {
        args.splice(1..1, ["load".into(), "-i".into(), bundle]);
    } else if args[1] == "load" && !args.iter().any(|arg| arg == "-i" || arg == "--input") {
        args.splice(2..2, ["-i".into(), bundle]);
    } else {
        args.iter_mut().filter(|arg| *arg == "{}").for_each(|arg| arg.clone_from(&bundle));
    }
    args
}

/// The command among arguments: what comes behind the global options.
fn verb(args: &[OsString]) -> Option<&OsString> {
    let mut rest = args.iter().skip(1);
    loop {
        let word = rest.next()?;
        match word.to_str() {
            Some("--root" | "--log-level" | "--progress") => {
                rest.next();
            }
            Some(option) if option.starts_with('-') => {}
            _ => return Some(word),
        }
    }
}

fn main_with(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let docker = verb(&args).and_then(|verb| verb.to_str()).is_some_and(container::is_dockers);
    let mut cli = match typed::parse(&args) {
        Ok(cli) => cli,
        Err(error) => {
            if let Some(instead) = absent::instead(&error) {
                exit::tell(&UsageError(instead), None);
                return exit::usage();
            }
            // Help and version go to standard output with success, everything else is a usage error.
            let _ = error.print();
            return match error.use_stderr() {
                false => ExitCode::SUCCESS,
                true if docker => typed::dockers_code(&error).into(),
                true => exit::usage(),
            };
        }
    };
    let root = cli.global.root.clone().unwrap_or_else(default_root);
    let fail = |fault: BoxFault| if docker { container::failed(&*fault) } else { exit::report(&*fault) };
    if let Command::Agent(args) = &mut cli.command {
        args.settle(&root);
    }
    let notice = match rootless::enter(&cli.command, &root) {
        Ok(notice) => notice,
        Err(fault) => return fail(fault),
    };
    // Root in a user namespace would have another default.
    cli.global.root = Some(root);
    let level = match cli.global.log_level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    };
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).without_time().init();
    if let Some(notice) = notice {
        tracing::warn!("{notice}");
    }
    run(cli).unwrap_or_else(fail)
}
