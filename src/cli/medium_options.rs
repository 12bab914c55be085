//! Options of commands that write onto removable media, and whoever changes these: a person at the terminal or a command.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;

use super::ask::Terminal;
use super::plural::counted;
use super::{UsageError, output};
use crate::base::{BoxFault, Class, Fault};
use crate::ops::carried::{self, Luggage};
use crate::ops::media::{Attendant, is_medium};
use crate::transfer::ssh::Prompter;

/// How media are written.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Medium options")]
pub struct MediumArgs {
    /// The file goes onto a medium, even if the kernel does not call it removable: check its room and limits first,
    /// choose the volume size, and read everything back from it
    #[arg(long)]
    medium: bool,
    /// When a medium is full, run this shell command, which puts the next one in, instead of asking on the terminal.
    /// FERRY_MEDIUM is its number, FERRY_FOLDER where it is expected; another folder may be printed
    #[arg(long, value_name = "COMMAND")]
    next_medium: Option<String>,
    /// Put this ferry and a start script beside the bundle, for hosts that have none: sh NAME.sh loads it
    #[arg(long)]
    with_ferry: bool,
    /// Bring this static ferry too, for another architecture; may be given several times
    #[arg(long, value_name = "FILE")]
    ferry_binary: Vec<PathBuf>,
    /// Make the bundle one executable file, or one beside the volumes where it has some or the medium takes no file so large:
    /// started, it loads itself, or does what ferry's options after it say
    #[arg(long, conflicts_with = "with_ferry")]
    self_extracting: bool,
}

/// Nobody put the next medium in.
#[derive(Debug, thiserror::Error)]
enum ChangeError {
    /// The command could not be run.
    #[error("cannot run the command for the next medium: {0}")]
    Run(#[source] std::io::Error),
    /// The command says no.
    #[error("the command for medium {number} failed with {status}; {why}")]
    Failed {
        /// Which medium.
        number: usize,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What is still to be done.
        why: String,
    },
    /// The user says no.
    #[error("no medium was put in; {0}")]
    GivenUp(String),
}

impl Fault for ChangeError {
    fn class(&self) -> Class {
        match self {
            Self::Run(_) | Self::Failed { .. } => Class::System,
            Self::GivenUp(_) => Class::Interrupted,
        }
    }
}

impl MediumArgs {
    /// For reading, where nothing but the change of media can be told.
    pub fn attending(next_medium: Option<String>) -> Self {
        Self { next_medium, ..Self::default() }
    }

    /// Whether a ferry is brought along.
    pub fn brings(&self) -> bool {
        self.with_ferry || self.self_extracting || !self.ferry_binary.is_empty()
    }

    /// Whether the bundle becomes an executable file.
    pub fn executable(&self) -> bool {
        self.self_extracting
    }

    /// What the bundle at `path` brings along.
    pub fn luggage(&self, path: &Path) -> Result<Luggage, BoxFault> {
        if !self.brings() {
            return Ok(Luggage::default());
        }
        if !self.with_ferry && !self.self_extracting {
            return Err(UsageError("--ferry-binary needs --with-ferry or --self-extracting".into()).into());
        }
        let own = std::env::current_exe();
        let own = own.map_err(|error| UsageError(format!("cannot find this program: {error}")))?;
        let binaries = carried::binaries(&own, &self.ferry_binary)?;
        let beside = if self.with_ferry { carried::beside(path, &binaries) } else { Vec::new() };
        Ok(Luggage { beside, lead: self.self_extracting.then(|| carried::lead(&binaries)) })
    }

    /// Whether `path`, a file or a folder, is written or read as on a medium.
    pub fn concerns(&self, path: &Path) -> bool {
        let special = path.metadata().is_ok_and(|meta| !meta.is_file() && !meta.is_dir());
        !special && (self.medium || self.next_medium.is_some() || is_medium(path))
    }
}

impl Attendant for MediumArgs {
    fn settled(&self, folder: &Path, files: &[PathBuf], bytes: u64) {
        let what = counted(files.len(), "file");
        let folder = output::clean(&folder.display().to_string());
        // What is done stays done when nobody reads about it.
        let _ = output::line(format!(
            "{folder}: {what} of {bytes} bytes read back as written; the medium may be unmounted and taken out"
        ));
    }

    fn can_change(&self) -> bool {
        self.next_medium.is_some() || (std::io::stderr().is_terminal() && Path::new("/dev/tty").exists())
    }

    fn next(&self, number: usize, folder: &Path, why: &str) -> Result<PathBuf, BoxFault> {
        let answer = match &self.next_medium {
            Some(command) => {
                let output = Command::new("sh")
                    .args(["-c", command])
                    .env("FERRY_MEDIUM", number.to_string())
                    .env("FERRY_FOLDER", folder)
                    .stdin(Stdio::null())
                    .stderr(Stdio::inherit())
                    .output()
                    .map_err(ChangeError::Run)?;
                if !output.status.success() {
                    return Err(ChangeError::Failed { number, status: output.status, why: why.to_owned() }.into());
                }
                String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned()
            }
            None => {
                let shown = folder.display();
                let question = format!(
                    "{why}. Put medium {number} in and press Enter when it is at {shown}, or type the folder it is at: "
                );
                Terminal.word(&question).ok_or_else(|| ChangeError::GivenUp(why.to_owned()))?
            }
        };
        Ok(if answer.trim().is_empty() { folder.to_owned() } else { PathBuf::from(answer.trim()) })
    }
}
