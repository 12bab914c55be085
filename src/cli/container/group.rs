//! `ferry container`: docker's other names for the commands about containers.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::super::inspect as container_inspect;
use super::*;

/// Manage containers
#[derive(Debug, Args)]
pub struct ContainerArgs {
    #[command(subcommand)]
    command: ContainerCommand,
}

#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one in the life of a process")]
enum ContainerCommand {
    Attach(attach::AttachArgs),
    Commit(commit::CommitArgs),
    Cp(cp::CpArgs),
    Create(create::CreateArgs),
    Diff(diff::DiffArgs),
    Exec(exec::ExecArgs),
    Export(export::ExportArgs),
    Inspect(container_inspect::InspectArgs),
    Kill(kill::KillArgs),
    Logs(logs::LogsArgs),
    #[command(visible_aliases = ["list", "ps"])]
    Ls(ps::PsArgs),
    Pause(pause::PauseArgs),
    Port(port::PortArgs),
    Prune(prune::PruneArgs),
    Rename(rename::RenameArgs),
    Restart(restart::RestartArgs),
    #[command(visible_alias = "remove")]
    Rm(rm::RmArgs),
    Run(Box<run::RunArgs>),
    Start(start::StartArgs),
    Stats(stats::StatsArgs),
    Stop(stop::StopArgs),
    Top(top::TopArgs),
    Unpause(pause::UnpauseArgs),
    Update(update::UpdateArgs),
    Wait(wait::WaitArgs),
}

/// Does it.
pub fn run(args: ContainerArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    use ContainerCommand as C;
    match args.command {
        C::Attach(args) => attach::run(args, global),
        C::Commit(args) => commit::run(args, global),
        C::Cp(args) => cp::run(args, global),
        C::Create(args) => create::run(args, global),
        C::Diff(args) => diff::run(args, global),
        C::Exec(args) => exec::run(args, global),
        C::Export(args) => export::run(args, global),
        C::Inspect(args) => container_inspect::containers_only(args, global),
        C::Kill(args) => kill::run(args, global),
        C::Logs(args) => logs::run(args, global),
        C::Ls(args) => ps::run(args, global),
        C::Pause(args) => pause::pause(args, global),
        C::Port(args) => port::run(args, global),
        C::Prune(args) => prune::run(args, global),
        C::Rename(args) => rename::run(args, global),
        C::Restart(args) => restart::run(args, global),
        C::Rm(args) => rm::run(args, global),
        C::Run(args) => run::run(*args, global),
        C::Start(args) => start::run(args, global),
        C::Stats(args) => stats::run(args, global),
        C::Stop(args) => stop::run(args, global),
        C::Top(args) => top::run(args, global),
        C::Unpause(args) => pause::unpause(args, global),
        C::Update(args) => update::run(args, global),
        C::Wait(args) => wait::run(args, global),
    }
}
