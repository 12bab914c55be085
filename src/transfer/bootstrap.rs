//! Getting an agent to run on a host on which nothing is installed.
//!
//! One shell command looks at the host. An installed ferry is used as it is; otherwise a copy of the binary is put into
//! the far user's cache folder under the digest of its content, checked there, and found again next time. With sudo, root copies
//! it to a directory that only root can write, hashes it there, and runs that copy: what a user could swap is never run
//! as root. Where an agent answers instead of a shell, a forced command, it is taken as it is.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::remote::{self, Process, Remote, RemoteError, quote};
use super::ssh::Prompter;
use super::wire::{self, WireError};
use crate::base::{BoxFault, Class, Ctx, Digest, Fault, PathError};
use crate::image::Platform;

/// How the far side is prepared.
#[derive(Clone)]
pub struct AgentOptions {
    /// The binary that runs there when there is none.
    pub binary: Option<PathBuf>,
    /// Whether it may be uploaded; one that was uploaded before is used in any case.
    pub upload: bool,
    /// Run the agent as root by sudo.
    pub sudo: Option<Arc<Sudo>>,
    /// The store there, when it is not the far user's default.
    pub root: Option<String>,
}

/// The way to be root there. The password is asked for when a host wants one, once for all hosts.
pub struct Sudo {
    prompter: Arc<dyn Prompter>,
    password: Mutex<Option<String>>,
}

impl Sudo {
    /// Passwords come from `prompter`.
    pub fn new(prompter: Arc<dyn Prompter>) -> Self {
        Self { prompter, password: Mutex::default() }
    }

    /// What sudo is to be told on this host: nothing, or a password, which has been tried.
    fn password(&self, remote: &mut dyn Remote) -> Result<Option<String>, BoxFault> {
        let host = remote.host().to_owned();
        let (code, _) = remote.start("sudo -n -k true")?.wait()?;
        if code == 0 {
            return Ok(None);
        }
        if code == 127 {
            return Err(BootstrapError::Sudo { host, why: "there is no sudo".into() }.into());
        }
        let mut known = self.password.lock().unwrap_or_else(PoisonError::into_inner);
        let password = match &*known {
            Some(password) => password.clone(),
            None => self.prompter.secret(&format!("[sudo] password on {host}: ")).ok_or_else(|| {
                BootstrapError::Sudo { host: host.clone(), why: "it wants a password, and nobody can be asked".into() }
            })?,
        };
        // Tried by itself: a sudo that asks again would take the conversation for an answer.
        let mut process = remote.start("sudo -k -S -p '' true")?;
        if let Some(stdin) = &mut process.stdin {
            // One that has given up already says so by its exit code.
            let _ = stdin.write_all(format!("{password}\n").as_bytes()).and_then(|()| stdin.flush());
        }
        let (code, stderr) = process.wait()?;
        if code != 0 {
            return Err(BootstrapError::Sudo { host, why: format!("the password is not accepted: {stderr}") }.into());
        }
        *known = Some(password.clone());
        Ok(Some(password))
    }
}

/// Why no agent can run there.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// Another system.
    #[error("{host}: runs {system}; ferry needs Linux")]
    System {
        /// The host as the user wrote it.
        host: String,
        /// What it says it is.
        system: String,
    },
    /// Another processor.
    #[error("{host}: is {far}, {} is {ours}", .binary.display())]
    Architecture {
        /// The host as the user wrote it.
        host: String,
        /// What it is.
        far: String,
        /// The binary.
        binary: PathBuf,
        /// What that is.
        ours: String,
    },
    /// Nothing installed, nothing may be uploaded.
    #[error("{host}: ferry is not installed there, and uploading it is forbidden")]
    Absent {
        /// The host as the user wrote it.
        host: String,
    },
    /// A binary that needs libraries the far side may not have.
    #[error("{}: not a static Linux binary: it cannot be uploaded", .0.display())]
    NotStatic(PathBuf),
    /// No way to be root.
    #[error("{host}: sudo: {why}")]
    Sudo {
        /// The host as the user wrote it.
        host: String,
        /// What is in the way.
        why: String,
    },
    /// A forced command does what its administrator wants.
    #[error("{host}: a forced command answers there, and {asked} would be for that one to say")]
    Forced {
        /// The host as the user wrote it.
        host: String,
        /// The option that asks for something else.
        asked: String,
    },
    /// What arrived is not what was sent.
    #[error("{host}: the uploaded binary has another digest there")]
    Altered {
        /// The host as the user wrote it.
        host: String,
    },
}

impl Fault for BootstrapError {
    fn class(&self) -> Class {
        match self {
            Self::Altered { .. } => Class::Integrity,
            Self::Absent { .. } => Class::NotFound,
            Self::Sudo { .. } | Self::Forced { .. } => Class::Refused,
            _ => Class::Unsupported,
        }
    }
}

/// What the look at the host found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Survey {
    /// `uname -s`.
    pub system: String,
    /// `uname -m`.
    pub machine: String,
    /// An installed ferry.
    pub ferry: Option<String>,
    /// The cache folder.
    pub cache: String,
    /// Whether the wanted binary is in the cache, with the right digest.
    pub cached: bool,
    /// Engines found: docker, podman, ctr, k3s.
    pub engines: Vec<String>,
    /// An agent answers whatever is asked for: a forced command. Nothing else is known then.
    pub forced: bool,
}

/// The most that the survey's answer may be, in bytes.
const SURVEY_BYTES: u64 = 64 << 10;

/// Looks at a host; `digest` is the binary's that would be uploaded.
pub fn survey(remote: &mut dyn Remote, digest: Option<Digest>) -> Result<Survey, RemoteError> {
    let wanted = digest.map_or_else(String::new, |digest| digest.hex());
    // Fields are marked, because login scripts may print. Nothing but a POSIX shell, uname and test is taken for
    // granted; without sha256sum a cached copy does not count.
    let script = format!(
        r#"echo "@s $(uname -s)"; echo "@m $(uname -m)"; f=$(command -v ferry) && echo "@f $f"
c=${{XDG_CACHE_HOME:-$HOME/.cache}}/ferry; echo "@c $c"
a=$c/agent-{wanted}; if [ -x "$a" ] && [ "$(sha256sum <"$a" 2>/dev/null | cut -c1-64)" = "{wanted}" ]; then echo "@a"
ln -sf "agent-{wanted}" "$c/{NAME}" 2>/dev/null; fi
for e in docker podman ctr k3s; do command -v $e >/dev/null 2>&1 && echo "@e $e"; done; :"#
    );
    let (out, code, stderr) = remote::heard(remote, &format!("sh -c {}", quote(&script)), SURVEY_BYTES)?;
    if out.windows(wire::BANNER.len()).any(|bytes| bytes == wire::BANNER) {
        return Ok(Survey { forced: true, ..Survey::default() });
    }
    if code != 0 {
        let what = "looking at the host".to_owned();
        return Err(RemoteError::Command { host: remote.host().to_owned(), what, code, stderr });
    }
    Ok(parse_survey(&String::from_utf8_lossy(&out)))
}

fn parse_survey(text: &str) -> Survey {
    let mut survey = Survey::default();
    for line in text.lines() {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        let value = value.to_owned();
        match key {
            "@s" => survey.system = value,
            "@m" => survey.machine = value,
            "@f" => survey.ferry = Some(value),
            "@c" => survey.cache = value,
            "@a" => survey.cached = true,
            "@e" => survey.engines.push(value),
            _ => {}
        }
    }
    survey
}

/// What the binary in the cache folder is called for whoever wants to run it.
const NAME: &str = "ferry";

/// An agent that has said its banner.
pub struct Agent {
    /// It.
    pub process: Process,
    /// The binary that was put there, by the name that a user can run it by; nothing where ferry is installed.
    pub uploaded: Option<String>,
}

/// Starts an agent on a host; its banner has been read. `arguments` follow `agent` on its command line.
pub fn start_agent(
    remote: &mut dyn Remote,
    options: &AgentOptions,
    arguments: &[&str],
    ctx: &Ctx,
) -> Result<Agent, BoxFault> {
    let binary = options.binary.as_deref().map(Binary::read).transpose()?;
    let survey = survey(remote, binary.as_ref().map(|binary| binary.digest))?;
    if survey.forced {
        let root = options.root.as_ref().map(|_| "--remote-root");
        let sudo = options.sudo.as_ref().map(|_| "--sudo");
        if let Some(asked) = root.or(sudo).or(arguments.first().copied()) {
            return Err(BootstrapError::Forced { host: remote.host().into(), asked: asked.into() }.into());
        }
        let (mut process, host) = (remote.start("ferry agent")?, remote.host().to_owned());
        return match wire::await_banner(&mut process.stdout) {
            Ok(()) => Ok(Agent { process, uploaded: None }),
            Err(error) => Err(explain(error, process, host)),
        };
    }
    if survey.system != "Linux" {
        let system = if survey.system.is_empty() { "no POSIX shell".into() } else { survey.system };
        return Err(BootstrapError::System { host: remote.host().into(), system }.into());
    }
    let (path, digest) = match (&survey.ferry, &binary) {
        (Some(installed), _) => (installed.clone(), None),
        (None, None) => return Err(BootstrapError::Absent { host: remote.host().into() }.into()),
        (None, Some(binary)) => {
            let path = format!("{}/agent-{}", survey.cache, binary.digest.hex());
            if !survey.cached {
                if !options.upload {
                    return Err(BootstrapError::Absent { host: remote.host().into() }.into());
                }
                binary.check_runs_on(remote.host(), &survey.machine)?;
                binary.upload(remote, &survey.cache, &path, ctx)?;
            }
            (path, Some(binary.digest))
        }
    };
    let mut words = vec!["agent".to_owned()];
    words.extend(arguments.iter().map(|word| (*word).to_owned()));
    if let Some(root) = &options.root {
        words.extend(["--root".to_owned(), root.clone()]);
    }
    let arguments = words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ");
    let (command, password) = match &options.sudo {
        None => (format!("exec {} {arguments}", quote(&path)), None),
        Some(sudo) => (as_root(&path, digest, &arguments), sudo.password(remote)?),
    };
    let mut process = remote.start(&command)?;
    let host = remote.host().to_owned();
    if let Some(password) = password
        && let Some(stdin) = &mut process.stdin
    {
        let sent = stdin.write_all(format!("{password}\n").as_bytes()).and_then(|()| stdin.flush());
        sent.map_err(|source| RemoteError::Io { host: host.clone(), action: "start the agent", source })?;
    }
    match wire::await_banner(&mut process.stdout) {
        Ok(()) => Ok(Agent { process, uploaded: digest.map(|_| format!("{}/{NAME}", survey.cache)) }),
        Err(error) => Err(explain(error, process, host)),
    }
}

/// No banner: what the far command said on standard error tells more than the silence.
fn explain(error: WireError, process: Process, host: String) -> BoxFault {
    if matches!(error, WireError::Noise) {
        return error.into();
    }
    match process.wait() {
        Ok((code, stderr)) if code != 0 => {
            RemoteError::Command { host, what: "starting the agent".into(), code, stderr }.into()
        }
        _ => error.into(),
    }
}

/// The command that runs a copy of the binary which only root can have written.
fn as_root(path: &str, digest: Option<Digest>, arguments: &str) -> String {
    // An installed ferry is root's own already; sudo's own rules say whether it may run.
    let Some(digest) = digest else { return format!("exec sudo -k -S -p '' {} {arguments}", quote(path)) };
    // Where root's programs may lie differs: /run is often mounted noexec. Nothing is run before it is hashed.
    let script = format!(
        "d=; trap 'rm -rf \"$d\"' EXIT; trap 'exit 1' HUP INT TERM; umask 077; \
         for b in /var/lib /root /run; do \
         d=$(mktemp -d $b/.ferry.XXXXXX 2>/dev/null) || continue; \
         cp {path} \"$d/ferry\" && chmod 700 \"$d/ferry\" || exit 1; \
         [ \"$(sha256sum <\"$d/ferry\" | cut -c1-64)\" = {hex} ] || {{ echo 'the binary was altered' >&2; exit 1; }}; \
         if \"$d/ferry\" --version >/dev/null 2>&1; then \"$d/ferry\" {arguments}; exit; fi; rm -rf \"$d\"; d=; done; \
         echo 'root has no directory that programs can be run from' >&2; exit 1",
        path = quote(path),
        hex = digest.hex(),
    );
    format!("exec sudo -k -S -p '' sh -c {}", quote(&script))
}

/// The binary that is uploaded.
struct Binary {
    path: PathBuf,
    digest: Digest,
    size: u64,
    machine: u16,
}

/// The largest binary that is taken for one, in bytes.
const BINARY_BYTES: u64 = 256 << 20;

impl Binary {
    fn read(path: &Path) -> Result<Self, BoxFault> {
        let at = |source| PathError { action: "read", path: path.to_owned(), source };
        let mut bytes = Vec::new();
        File::open(path).and_then(|file| file.take(BINARY_BYTES).read_to_end(&mut bytes)).map_err(at)?;
        let machine =
            static_elf_machine(&bytes).ok_or_else(|| BoxFault::from(BootstrapError::NotStatic(path.to_owned())))?;
        Ok(Self { path: path.to_owned(), digest: Digest::of(&bytes), size: bytes.len() as u64, machine })
    }

    fn check_runs_on(&self, host: &str, machine: &str) -> Result<(), BootstrapError> {
        let ours = match self.machine {
            62 => "amd64",
            183 => "arm64",
            40 => "arm",
            243 => "riscv64",
            22 => "s390x",
            21 => "ppc64le",
            _ => "an unknown architecture",
        };
        let far = match machine {
            "riscv64" | "s390x" | "ppc64le" => machine.to_owned(),
            machine if machine.starts_with("armv") => "arm".to_owned(),
            machine => machine.parse::<Platform>().map(|p| p.architecture).unwrap_or_else(|_| machine.to_owned()),
        };
        if far == ours {
            return Ok(());
        }
        let (host, binary) = (host.to_owned(), self.path.clone());
        Err(BootstrapError::Architecture { host, far, binary, ours: ours.to_owned() })
    }

    fn upload(&self, remote: &mut dyn Remote, cache: &str, path: &str, ctx: &Ctx) -> Result<(), BoxFault> {
        let host = remote.host().to_owned();
        let task = ctx.begin("Uploading ferry", host.clone(), Some(self.size));
        // cat ends at the end of input; the digest is taken of what is on the far disk, before it gets its name.
        let script = format!(
            "umask 077; t={path}.$$; mkdir -p {cache} && cat >\"$t\" && chmod 700 \"$t\" || {{ rm -f \"$t\"; exit 1; }}; \
             s=$(sha256sum <\"$t\" | cut -c1-64); echo \"$s\"; [ \"$s\" = {hex} ] || {{ rm -f \"$t\"; exit 0; }}; \
             mv -f \"$t\" {path} && {{ ln -sf agent-{hex} {cache}/{NAME} || :; }}",
            cache = quote(cache),
            path = quote(path),
            hex = self.digest.hex(),
        );
        let mut process = remote.start(&format!("sh -c {}", quote(&script)))?;
        let io = |source| RemoteError::Io { host: host.clone(), action: "upload ferry", source };
        let mut file =
            File::open(&self.path).map_err(|source| PathError { action: "read", path: self.path.clone(), source })?;
        let mut buf = vec![0; 64 << 10];
        let mut sent = Ok(());
        if let Some(stdin) = &mut process.stdin {
            loop {
                let n = file.read(&mut buf).map_err(io)?;
                if n == 0 {
                    break;
                }
                sent = stdin.write_all(&buf[..n]);
                if sent.is_err() {
                    break;
                }
                task.advance(n as u64)?;
            }
        }
        process.stdin = None;
        let mut answer = String::new();
        let read = (&mut process.stdout).take(1024).read_to_string(&mut answer);
        let (code, stderr) = process.wait()?;
        if code != 0 {
            return Err(RemoteError::Command { host, what: "uploading ferry".into(), code, stderr }.into());
        }
        sent.and(read.map(|_| ())).map_err(io)?;
        if answer.lines().last().map(str::trim) != Some(&self.digest.hex()) {
            return Err(BootstrapError::Altered { host }.into());
        }
        task.complete();
        Ok(())
    }
}

/// The machine number of a static 64- or 32-bit little-endian ELF file; `None` for anything else. Static means: no
/// program header asks for an interpreter (PT_INTERP, 3).
pub fn static_elf_machine(bytes: &[u8]) -> Option<u16> {
    let u16_at = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    if bytes.get(..4)? != b"\x7fELF" || bytes.get(5)? != &1 {
        return None;
    }
    let (offset, size, count) = match bytes.get(4)? {
        2 => (usize::try_from(u64_at(32)?).ok()?, u16_at(54)?, u16_at(56)?),
        1 => (u32_at(28)? as usize, u16_at(42)?, u16_at(44)?),
        _ => return None,
    };
    for i in 0..count {
        let kind = u32_at(offset.checked_add(usize::from(i) * usize::from(size))?)?;
        if kind == 3 {
            return None;
        }
    }
    u16_at(18)
}

/// Errors of both ends of a started agent, for callers that only exchange messages.
impl From<WireError> for io::Error {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Io(error) => error,
            error => io::Error::other(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_survey_is_read_among_a_login_scripts_noise() {
        let text = "Welcome\n@s Linux\n@m x86_64\nbye\n@c /home/a b/.cache/ferry\n@a\n@e podman\n";
        let survey = parse_survey(text);
        assert_eq!((survey.system.as_str(), survey.machine.as_str(), survey.cached), ("Linux", "x86_64", true));
        assert_eq!((survey.cache.as_str(), survey.ferry, survey.engines.len()), ("/home/a b/.cache/ferry", None, 1));
    }

    #[test]
    fn only_static_binaries_are_uploaded() {
        assert_eq!(static_elf_machine(b"#!/bin/sh\n"), None);
        let shell = std::fs::read("/bin/sh").unwrap();
        assert_eq!(static_elf_machine(&shell), None, "/bin/sh is dynamic");
        for cut in 0..200 {
            static_elf_machine(&shell[..cut]);
        }
    }
}
