//! Standard output, and files in its place. A reader that goes away (`ferry images | head -1`) ends the command without a word, as it would a
//! program that a SIGPIPE ends; Rust's own print macros panic instead.

use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::base::durable::AtomicFile;
use crate::base::{AtPath, BoxFault, Class, Fault, PathError};
use crate::bundle::volume::is_one_of_several;
use crate::ops::media::folder_of;
use crate::ops::save::watched;

/// What a shell reports for a process that SIGPIPE ended.
const BROKEN_PIPE: i32 = 141;

/// Standard output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output: {0}")]
struct OutputError(io::Error);

impl Fault for OutputError {
    fn class(&self) -> Class {
        crate::base::error::class_of_io(&self.0)
    }
}

/// One volume of several would be replaced.
#[derive(Debug, thiserror::Error)]
#[error("{} is one volume of a bundle: give another name, or delete the bundle first", .0.display())]
struct OneOfSeveral(PathBuf);

impl Fault for OneOfSeveral {
    fn class(&self) -> Class {
        Class::Conflict
    }
}

/// Whether what is written to a path goes to standard output by its name: there is none, or a dash.
pub fn is_stdout(path: Option<&Path>) -> bool {
    path.is_none_or(|path| path == Path::new("-"))
}

/// Writes `text` to standard output.
pub fn print(text: impl AsRef<[u8]>) -> Result<(), BoxFault> {
    let mut out = io::stdout().lock();
    check(out.write_all(text.as_ref()).and_then(|()| out.flush()))
}

/// Writes `text` and a line break to standard output.
pub fn line(text: impl AsRef<str>) -> Result<(), BoxFault> {
    print(format!("{}\n", text.as_ref()))
}

/// Has `give` write to standard output.
pub fn stream(give: impl FnOnce(&mut dyn Write) -> Result<(), BoxFault>) -> Result<(), BoxFault> {
    // The standard library's own buffer ends at each line break.
    let mut out = BufWriter::with_capacity(1 << 20, Pipe(io::stdout().lock()));
    give(&mut out)?;
    check(out.flush())
}

/// Has `give` write to a file, which gets its name and its mode when it is whole, or to standard output.
pub fn write(
    to: Option<&Path>,
    mode: u32,
    give: impl FnOnce(&mut dyn Write) -> Result<(), BoxFault>,
) -> Result<ExitCode, BoxFault> {
    let Some(to) = to else {
        stream(give)?;
        return Ok(ExitCode::SUCCESS);
    };
    match Place::of(Some(to))? {
        Place::Through(direct) => direct.write(|out| {
            let mut out = BufWriter::with_capacity(1 << 20, out);
            give(&mut out)?;
            Ok(out.flush().at("write", to)?)
        })?,
        Place::File(path) => {
            let mut file = AtomicFile::create(&path, 0o600)?;
            let mut out = BufWriter::with_capacity(1 << 16, &mut file);
            give(&mut out)?;
            out.flush().at("write", &path)?;
            drop(out);
            file.file().set_permissions(Permissions::from_mode(mode)).at("change the mode of", &path)?;
            file.commit()?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Where what is written to a path goes. A new file takes the place of an old one and of nothing else, nor of one volume of
/// several.
pub enum Place {
    /// A file, there or not: where the path leads when it is a link.
    File(PathBuf),
    /// What cannot be replaced: a device, a pipe, or a file that is open, by its name in /proc.
    Through(Direct),
}

/// As many links are followed as the kernel follows.
const LINKS: usize = 40;

impl Place {
    /// Where `path` leads; without one, or by a dash, standard output. A pipe is not opened: it would wait for who reads it.
    pub fn of(path: Option<&Path>) -> Result<Self, BoxFault> {
        let path = path.filter(|path| !is_stdout(Some(*path)));
        let through = |to| Ok(Self::Through(Direct { to, path: path.map(Path::to_owned) }));
        let Some(path) = path else { return through(To::Stdout) };
        let mut at = path.to_owned();
        for _ in 0..LINKS {
            let (Ok(next), Some(name)) = (at.read_link(), at.file_name()) else { break };
            // The kernel follows no link that somebody else laid in a directory for all (protected_symlinks), and says so
            // when it is asked to. Nothing need be where the link leads.
            match at.metadata() {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at("open", path)?,
                _ => {}
            }
            let folder = folder_of(&at).canonicalize().at("open", path)?;
            if is_proc(&folder) {
                // Our own standard output goes on where it is, as a shell has it; of any other file the end is written to.
                let ours = Path::new("/proc/self/fd").canonicalize().is_ok_and(|ours| ours == folder);
                return through(if ours && name == "1" { To::Stdout } else { To::Append(folder.join(name)) });
            }
            at = folder.join(next);
        }
        // A directory is refused by the kernel.
        if at.metadata().is_ok_and(|meta| !meta.is_file()) {
            return through(To::Write(at));
        }
        if is_one_of_several(&at) {
            return Err(OneOfSeveral(path.to_owned()).into());
        }
        Ok(Self::File(at))
    }
}

/// Whether a directory is one of the kernel's, whose links are no paths.
fn is_proc(folder: &Path) -> bool {
    rustix::fs::statfs(folder).is_ok_and(|found| found.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

/// Something that is written to as it is.
pub struct Direct {
    to: To,
    /// As it was named; standard output need not be.
    path: Option<PathBuf>,
}

enum To {
    Stdout,
    Write(PathBuf),
    Append(PathBuf),
}

/// The same, opened.
pub struct Opened {
    to: Box<dyn Write + Send>,
    path: Option<PathBuf>,
}

impl Direct {
    /// Opens it.
    pub fn open(self) -> Result<Opened, PathError> {
        let named = |at: &Path| self.path.clone().unwrap_or_else(|| at.to_owned());
        let to: Box<dyn Write + Send> = match self.to {
            To::Stdout => {
                let fd = io::stdout().as_fd().try_clone_to_owned().at("open", "standard output")?;
                Box::new(Pipe(File::from(fd)))
            }
            To::Write(at) => Box::new(File::options().write(true).open(&at).at("open", named(&at))?),
            To::Append(at) => Box::new(File::options().append(true).open(&at).at("open", named(&at))?),
        };
        Ok(Opened { to, path: self.path })
    }

    /// Opens it and has `give` write to it.
    pub fn write<T>(self, give: impl FnOnce(Box<dyn Write + Send>) -> Result<T, BoxFault>) -> Result<T, BoxFault> {
        self.open()?.write(give)
    }
}

impl Opened {
    /// Has `give` write to it. When that fails because nothing can be written any more, the error says so once, and where.
    pub fn write<T>(self, give: impl FnOnce(Box<dyn Write + Send>) -> Result<T, BoxFault>) -> Result<T, BoxFault> {
        watched(self.to, give, |source| match self.path {
            Some(path) => PathError { action: "write", path, source }.into(),
            None => OutputError(source).into(),
        })
    }
}

/// An output that was begun, so that what cannot be written is known before anything else is done.
pub struct Begun {
    path: PathBuf,
    to: BegunAt,
}

enum BegunAt {
    File(AtomicFile),
    Through(Opened),
}

impl Begun {
    /// Begins what will be at `path`; a new file gets these permission bits.
    pub fn new(path: &Path, mode: u32) -> Result<Self, BoxFault> {
        let to = match Place::of(Some(path))? {
            Place::File(path) => BegunAt::File(AtomicFile::create(&path, mode)?),
            Place::Through(direct) => BegunAt::Through(direct.open()?),
        };
        Ok(Self { path: path.to_owned(), to })
    }

    /// Writes it. A file is there, durably, when this returns; before, none is.
    pub fn finish(self, bytes: &[u8]) -> Result<(), BoxFault> {
        match self.to {
            BegunAt::File(mut file) => {
                file.write_all(bytes).at("write", &self.path)?;
                Ok(file.commit()?)
            }
            BegunAt::Through(opened) => opened.write(|mut out| {
                out.write_all(bytes).at("write", &self.path)?;
                Ok(out.flush().at("write", &self.path)?)
            }),
        }
    }
}

/// Standard output that ends the command when its reader goes away.
struct Pipe<W>(W);

impl<W: Write> Write for Pipe<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(BROKEN_PIPE),
            result => result,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn check(result: io::Result<()>) -> Result<(), BoxFault> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(BROKEN_PIPE),
        result => Ok(result.map_err(OutputError)?),
    }
}

/// A name from an image or a peer in a line of its own making: no character of it may begin another line, or write to a
/// terminal.
pub fn field(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Lines with texts from an image or a peer, made safe for a terminal: control characters could write to it.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}
