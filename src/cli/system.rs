//! `ferry system`: the boot unit, and docker's other names for commands about the whole.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::container::events::{self, EventsArgs};
use super::container::failed;
use super::container::prune as container_prune;
use super::{Global, df, info, network, output, prune, volume};
use crate::base::{AtPath, BoxFault, durable};
use crate::runtime::RuntimeError;
use crate::runtime::cgroup::in_user_namespace;
use crate::runtime::lifecycle;

/// Manage what belongs to no single container
#[derive(Debug, Args)]
pub struct SystemArgs {
    #[command(subcommand)]
    command: SystemCommand,
}

#[derive(Debug, Subcommand)]
enum SystemCommand {
    Df(df::DfArgs),
    Events(EventsArgs),
    Info(info::InfoArgs),
    InstallUnit(InstallUnitArgs),
    Prune(PruneArgs),
    Start(StartArgs),
}

/// Clean up after a crash or a boot, and start the containers whose restart policy says so
#[derive(Debug, Args)]
struct StartArgs {}

/// Remove stopped containers, unused networks and images, and with --volumes anonymous volumes
#[derive(Debug, Args)]
struct PruneArgs {
    /// Remove images with names too, when no container uses them
    #[arg(short, long)]
    all: bool,
    /// Only what fits: label=KEY[=VALUE], label!=KEY[=VALUE], until=TIME
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Remove anonymous volumes that no container uses, too
    #[arg(long)]
    volumes: bool,
}

/// Write a systemd unit that runs `ferry system start` at boot
#[derive(Debug, Args)]
struct InstallUnitArgs {
    /// The unit's file; - for standard output [default: where systemd looks for it, the user's for a user]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Runs one of the subcommands.
pub fn run(args: SystemArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    match args.command {
        SystemCommand::Df(args) => df::run(args, global),
        SystemCommand::Events(args) => events::run(args, global),
        SystemCommand::Info(args) => info::run(args, global),
        SystemCommand::InstallUnit(args) => install_unit(args, global),
        SystemCommand::Prune(args) => prune_all(&args, global),
        SystemCommand::Start(_) => Ok(start(global)),
    }
}

/// Asks once, then does what each prune does.
fn prune_all(args: &PruneArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let volumes = if args.volumes { ", anonymous volumes" } else { "" };
    let images = if args.all { "all unused images" } else { "dangling images" };
    if args.volumes && args.filter.iter().any(|filter| filter.starts_with("until=")) {
        return Err(RuntimeError::usage("the \"until\" filter is not supported with \"--volumes\"").into());
    }
    if !args.force && !prune::sure(&format!("all stopped containers, unused networks{volumes} and {images}"))? {
        return Ok(ExitCode::SUCCESS);
    }
    let mut codes = vec![container_prune::run(container_prune::PruneArgs::unasked(args.filter.clone()), global)?];
    codes.push(network::prune_unasked(&args.filter, global)?);
    if args.volumes {
        codes.push(volume::prune_unasked(args.filter.clone(), global)?);
    }
    codes.push(prune::run(prune::PruneArgs::unasked(args.all, args.filter.clone()), global)?);
    Ok(codes.into_iter().find(|code| *code != ExitCode::SUCCESS).unwrap_or(ExitCode::SUCCESS))
}

/// The last failure's code, all of them told.
fn start(global: &Global) -> ExitCode {
    let failures = lifecycle::recover_all(&global.root, true);
    failures.iter().fold(ExitCode::SUCCESS, |_, failure| failed(failure))
}

const UNIT: &str = "ferry.service";

fn install_unit(args: InstallUnitArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let program = std::env::current_exe().at("find", "this program")?;
    let root = std::path::absolute(&global.root).at("resolve", &global.root)?;
    let user = !rustix::process::geteuid().is_root() || in_user_namespace();
    let text = unit(&program, &root, user);
    let path = match args.output {
        Some(path) if path == Path::new("-") => {
            output::print(text)?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(path) => path,
        None if user => user_units().join(UNIT),
        None => Path::new("/etc/systemd/system").join(UNIT),
    };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).at("create", directory)?;
    }
    durable::write(&path, text.as_bytes(), 0o644)?;
    output::line(path.display().to_string())?;
    let systemctl = if user { "systemctl --user" } else { "systemctl" };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    global
        .ctx
        .warn(format!("the unit is not active yet: {systemctl} daemon-reload && {systemctl} enable --now {name}"));
    Ok(ExitCode::SUCCESS)
}

fn user_units() -> PathBuf {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
    config.unwrap_or_else(|| PathBuf::from("/etc")).join("systemd/user")
}

/// The unit's text. Monitors stay in its control group: at the machine's end systemd asks them to stop, and they stop
/// their containers, which are then known to have run.
fn unit(program: &Path, root: &Path, user: bool) -> String {
    let quoted = |path: &Path| {
        let text = path.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"");
        format!("\"{}\"", text.replace('%', "%%").replace('$', "$$"))
    };
    let mut text = String::from("[Unit]\nDescription=ferry: start containers by their restart policies\n");
    if !user {
        text.push_str("After=local-fs.target network.target\n");
    }
    let _ = write!(
        text,
        "\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart={} --root {} system start\n\
         KillMode=control-group\nDelegate=yes\nTimeoutStopSec=120\n\n[Install]\nWantedBy={}\n",
        quoted(program),
        quoted(root),
        if user { "default.target" } else { "multi-user.target" },
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_quotes_what_systemd_would_read_otherwise() {
        let text = unit(Path::new("/opt/my ferry"), Path::new("/srv/100%$x"), false);
        assert!(text.contains("ExecStart=\"/opt/my ferry\" --root \"/srv/100%%$$x\" system start\n"), "{text}");
        assert!(text.contains("WantedBy=multi-user.target\n"));
        assert!(unit(Path::new("/a"), Path::new("/b"), true).contains("WantedBy=default.target\n"));
    }
}
