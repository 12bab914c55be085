//! Containers on disk: `ferry/containers/<id>/{config.json,state.json,lock,monitor,ctl,log}` and
//! `ferry/containers/by-name/<name>`, a symlink to the ID.
//!
//! Order of writes. A container exists when its `config.json` does; the name's link is made before that (so a name is
//! taken by exactly one) and removed after it is gone. A link without a container is a leftover that anyone may take.
//! `monitor` is locked by the container's monitor as long as that lives: a live status without the lock is a lie that
//! the next reader corrects in memory and the next writer on disk. A container goes by its directory's being moved to
//! `.<id>.gone`, where nobody looks for it any more; one that is made comes from `.<id>`.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::super::error::RuntimeError;
use super::{Container, State, name};
use crate::base::{AtPath, durable};
use crate::sys::record_lock as lock;

/// The largest config or state file that is read, in bytes.
const FILE_BYTES: u64 = 16 << 20;
/// How long a monitor may take from its program's end to its own, or from its own start to its program's.
const MONITOR_PATIENCE: Duration = Duration::from_secs(10);
/// What the name of a directory that is being removed ends with.
const GONE: &str = ".gone";

/// All containers of a store.
#[derive(Debug, Clone)]
pub struct Containers {
    root: PathBuf,
}

/// One container's directory.
#[derive(Debug, Clone)]
pub struct ContainerDir {
    path: PathBuf,
    id: String,
}

impl Containers {
    /// The containers of the store at `store_root`.
    pub fn new(store_root: &Path) -> Self {
        Self { root: store_root.join("ferry/containers") }
    }

    /// Their directory.
    pub fn path(&self) -> &Path {
        &self.root
    }

    fn by_name(&self) -> PathBuf {
        self.root.join("by-name")
    }

    /// The directory of the container `id`.
    pub fn dir(&self, id: &str) -> ContainerDir {
        ContainerDir { path: self.root.join(id), id: id.to_owned() }
    }

    /// All containers, newest first. One that is damaged is left out.
    pub fn all(&self) -> Result<Vec<(ContainerDir, Container, State)>, RuntimeError> {
        let mut found = Vec::new();
        for id in self.ids()? {
            let dir = self.dir(&id);
            if let (Ok(container), Ok(state)) = (dir.container(), dir.state()) {
                found.push((dir, container, state));
            }
        }
        found.sort_by(|(_, a, _), (_, b, _)| b.created.cmp(&a.created));
        Ok(found)
    }

    /// All IDs.
    pub fn ids(&self) -> Result<Vec<String>, RuntimeError> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.at("read", &self.root)?,
        };
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.at("read", &self.root)?.file_name();
            if let Some(id) = name.to_str().filter(|id| is_id(id)) {
                ids.push(id.to_owned());
            }
        }
        Ok(ids)
    }

    /// Directories that were being made or removed by commands that are no more, and that are no container's.
    pub fn forsaken(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        // While nobody is between making a directory and locking it, one without a holder of its lock is forsaken.
        let root = File::open(&self.root).ok();
        let settled = root.as_ref().is_some_and(|root| root.try_lock().is_ok());
        for entry in fs::read_dir(&self.root).into_iter().flatten().filter_map(Result::ok) {
            let name = entry.file_name();
            let Some(hidden) = name.to_str().and_then(|name| name.strip_prefix('.')) else { continue };
            let id = hidden.strip_suffix(GONE).unwrap_or(hidden);
            if is_id(id) && (id != hidden || settled && is_free(&entry.path().join("lock"))) {
                found.push(entry.path());
            }
        }
        found
    }

    /// Takes them away. What cannot be taken is left for the next time.
    pub fn sweep(&self) {
        for path in self.forsaken() {
            let _ = fs::remove_dir_all(path);
        }
    }

    /// The container of a name, an ID or the beginning of one, in docker's order.
    pub fn find(&self, text: &str) -> Result<ContainerDir, RuntimeError> {
        let missing = || RuntimeError::NoSuchContainer(text.chars().take(128).collect());
        let text = text.strip_prefix('/').unwrap_or(text);
        if is_id(text) && self.dir(text).exists() {
            return Ok(self.dir(text));
        }
        if name::check(text).is_ok()
            && let Some(dir) = self.named(text).filter(ContainerDir::exists)
        {
            return Ok(dir);
        }
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(missing());
        }
        let mut matching = self.ids()?.into_iter().filter(|id| id.starts_with(text) && self.dir(id).exists());
        match (matching.next(), matching.next()) {
            (Some(id), None) => Ok(self.dir(&id)),
            (Some(_), Some(_)) => Err(RuntimeError::Ambiguous(text.to_owned())),
            _ => Err(missing()),
        }
    }

    fn named(&self, name: &str) -> Option<ContainerDir> {
        let target = fs::read_link(self.by_name().join(name)).ok()?;
        let id = target.file_name()?.to_str()?;
        is_id(id).then(|| self.dir(id))
    }

    /// Makes the directory of a new container and takes its name. Without a name one is made up. The directory has its
    /// lock, which comes back, before it can be seen: one that has neither settings nor a holder of its lock is forsaken.
    pub fn reserve(&self, id: &str, wanted: Option<&str>) -> Result<(ContainerDir, String, File), RuntimeError> {
        let by_name = self.by_name();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&by_name).at("create", &by_name)?;
        let dir = self.dir(id);
        let hidden = ContainerDir { path: self.root.join(format!(".{id}")), id: id.to_owned() };
        let making = File::open(&self.root).at("open", &self.root)?;
        making.lock_shared().at("lock", &self.root)?;
        fs::DirBuilder::new().mode(0o700).create(&hidden.path).at("create", &hidden.path)?;
        let lock = hidden.lock()?;
        drop(making);
        fs::rename(&hidden.path, &dir.path).at("rename to", &dir.path)?;
        let taken = match wanted {
            Some(name) => self.take_name(id, name::check(name)?).map(|()| name::check(name).unwrap_or(name).to_owned()),
            None => self.invent_name(id),
        };
        match taken {
            Ok(name) => Ok((dir, name, lock)),
            Err(error) => {
                let _ = dir.remove();
                Err(error)
            }
        }
    }

    /// Gives up whatever names the container has.
    pub fn release_names(&self, id: &str) -> Result<(), RuntimeError> {
        let by_name = self.by_name();
        for entry in fs::read_dir(&by_name).at("read", &by_name)? {
            if let Some(name) = entry.at("read", &by_name)?.file_name().to_str() {
                self.release_name(id, name);
            }
        }
        Ok(())
    }

    fn invent_name(&self, id: &str) -> Result<String, RuntimeError> {
        for attempt in 0..1000 {
            let mut random = [0; 4];
            getrandom::fill(&mut random).map_err(io::Error::other).at("read", "/dev/urandom")?;
            let name = name::invent(random, attempt / 4);
            match self.take_name(id, &name) {
                Err(RuntimeError::NameInUse { .. }) => {}
                taken => return taken.map(|()| name),
            }
        }
        Err(RuntimeError::Conflict("cannot find a free name: give one with --name".into()))
    }

    /// Gives the container `id` a name, which must be free.
    pub fn take_name(&self, id: &str, name: &str) -> Result<(), RuntimeError> {
        let link = self.by_name().join(name::check(name)?);
        for _ in 0..2 {
            match std::os::unix::fs::symlink(Path::new("..").join(id), &link) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => return Ok(made.at("create", &link)?),
            }
            let owner = self.named(name);
            // A name is in use from the moment its container's directory is there, before its config is.
            match owner.filter(|owner| owner.path.is_dir()) {
                Some(owner) => return Err(RuntimeError::NameInUse { name: name.into(), id: owner.id }),
                None => {
                    let _ = fs::remove_file(&link);
                }
            }
        }
        Err(RuntimeError::NameInUse { name: name.into(), id: "another command is just making".into() })
    }

    /// Gives up a name, if it is the container's.
    pub fn release_name(&self, id: &str, name: &str) {
        if name::check(name).is_ok() && self.named(name).is_some_and(|owner| owner.id == id) {
            let _ = fs::remove_file(self.by_name().join(name));
        }
    }
}

/// Whether nobody holds the lock that is, or is not even yet, in a file.
fn is_free(lock: &Path) -> bool {
    match File::options().read(true).write(true).open(lock) {
        Ok(file) => file.try_lock().is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Whether a text is a full ID.
pub fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl ContainerDir {
    /// The container's ID.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether nobody is at work on it.
    pub fn is_free(&self) -> bool {
        is_free(&self.file("lock"))
    }

    /// Docker's log file.
    pub fn log(&self) -> PathBuf {
        self.file(&format!("{}-json.log", self.id))
    }

    /// Whether there is a container.
    pub fn exists(&self) -> bool {
        self.file("config.json").exists()
    }

    fn read<T: serde::de::DeserializeOwned>(&self, file: &str) -> Result<Option<T>, RuntimeError> {
        let path = self.file(file);
        let mut bytes = Vec::new();
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.and_then(|file| file.take(FILE_BYTES).read_to_end(&mut bytes)).at("read", &path)?,
        };
        let malformed = |error: serde_json::Error| RuntimeError::Malformed(format!("{}: {error}", path.display()));
        serde_json::from_slice(&bytes).map(Some).map_err(malformed)
    }

    /// The settings.
    pub fn container(&self) -> Result<Container, RuntimeError> {
        self.read("config.json")?.ok_or_else(|| RuntimeError::NoSuchContainer(self.id.clone()))
    }

    /// Writes the settings, durably.
    pub fn write_container(&self, container: &Container) -> Result<(), RuntimeError> {
        let bytes = serde_json::to_vec(container).map_err(|error| RuntimeError::Malformed(error.to_string()))?;
        Ok(durable::write(&self.file("config.json"), &bytes, 0o600)?)
    }

    /// The state as it is on disk.
    pub fn recorded_state(&self) -> Result<State, RuntimeError> {
        Ok(self.read("state.json")?.unwrap_or_default())
    }

    /// The state as it is: one that claims a life without a monitor is corrected.
    pub fn state(&self) -> Result<State, RuntimeError> {
        // The monitor is asked for first: it writes its last state before it lets go of its lock.
        for _ in 0..3 {
            let lives = self.monitor_lives();
            let mut state = self.recorded_state()?;
            if lives || !state.status.is_live() {
                return Ok(state);
            }
            if self.recorded_state()? == state {
                state.lost(&crate::runtime::now());
                return Ok(state);
            }
        }
        self.recorded_state()
    }

    /// Writes the state, durably.
    pub fn write_state(&self, state: &State) -> Result<(), RuntimeError> {
        let bytes = serde_json::to_vec(state).map_err(|error| RuntimeError::Malformed(error.to_string()))?;
        Ok(durable::write(&self.file("state.json"), &bytes, 0o600)?)
    }

    /// Writes the state of a container that does not outlive its program: it is replaced whole, but not made durable,
    /// for after a crash of the machine it says nothing any more.
    pub fn write_passing_state(&self, state: &State) -> Result<(), RuntimeError> {
        let bytes = serde_json::to_vec(state).map_err(|error| RuntimeError::Malformed(error.to_string()))?;
        let (new, path) = (self.file(".state.json.new"), self.file("state.json"));
        fs::write(&new, &bytes).at("write", &new)?;
        Ok(fs::rename(&new, &path).at("rename to", &path)?)
    }

    /// Whether a monitor holds its lock.
    pub fn monitor_lives(&self) -> bool {
        // Opened for writing: the kernel answers only for a lock that this descriptor could take.
        let file = File::options().read(true).write(true).open(self.file("monitor"));
        file.is_ok_and(|file| lock::is_write_locked(&file).unwrap_or(false))
    }

    /// The PID on the host of the monitor that lives.
    pub fn monitor(&self) -> Option<i32> {
        if !self.monitor_lives() {
            return None;
        }
        fs::read_to_string(self.file("monitor")).ok()?.trim().parse().ok()
    }

    /// Takes the monitor's lock for as long as the result lives; `None` when another monitor has it.
    pub fn lock_monitor(&self) -> Result<Option<File>, RuntimeError> {
        let path = self.file("monitor");
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path).at("open", &path)?;
        let locked = lock::try_write_lock(&file).at("lock", &path)?;
        Ok(locked.then_some(file))
    }

    /// Keeps other commands from changing the container while the result lives.
    pub fn lock(&self) -> Result<File, RuntimeError> {
        let path = self.file("lock");
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = match file {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(RuntimeError::NoSuchContainer(self.id.clone()));
            }
            file => file.at("open", &path)?,
        };
        file.lock().at("lock", &path)?;
        if self.path.is_dir() { Ok(file) } else { Err(RuntimeError::NoSuchContainer(self.id.clone())) }
    }

    /// The same, if nobody has the lock.
    pub fn try_lock(&self) -> Result<Option<File>, RuntimeError> {
        let path = self.file("lock");
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path).at("open", &path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error).at("lock", &path)?,
        }
    }

    /// The path by which the monitor's socket is reached, with the directory that must stay open meanwhile: a socket's
    /// path has 107 bytes, a store's may be longer.
    pub fn socket(&self) -> Result<(File, PathBuf), RuntimeError> {
        let dir = File::open(&self.path).at("open", &self.path)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/ctl", dir.as_raw_fd()));
        Ok((dir, path))
    }

    /// Connects to the monitor.
    pub fn connect(&self) -> Result<UnixStream, RuntimeError> {
        let (_dir, path) = self.socket()?;
        Ok(UnixStream::connect(path).at("reach the monitor at", self.file("ctl"))?)
    }

    /// Takes the directory away: at once by moving it, so that nobody writes into what is being removed. The caller holds
    /// the container's lock or is its monitor. A command that is killed meanwhile leaves what [`Containers::sweep`] takes.
    pub fn remove(&self) -> Result<(), RuntimeError> {
        let gone = self.path.with_file_name(format!(".{}{GONE}", self.id));
        match fs::rename(&self.path, &gone) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            moved => moved.at("rename to", &gone)?,
        }
        match fs::remove_dir_all(&gone) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => Ok(removed.at("remove", &gone)?),
        }
    }

    /// The state when no monitor is about to change it: one that is just starting its program, or that has said its
    /// last word, is waited for. Whether a monitor is left then is whether the state is a live one.
    pub fn settled(&self) -> Result<State, RuntimeError> {
        let deadline = Instant::now() + MONITOR_PATIENCE;
        loop {
            let lives = self.monitor_lives();
            let state = self.state()?;
            if !lives || state.status.is_live() {
                return Ok(state);
            }
            self.pause_until(deadline)?;
        }
    }

    /// Waits until the monitor is gone.
    pub fn wait_for_monitor(&self) -> Result<(), RuntimeError> {
        let deadline = Instant::now() + MONITOR_PATIENCE;
        while self.monitor_lives() {
            self.pause_until(deadline)?;
        }
        Ok(())
    }

    fn pause_until(&self, deadline: Instant) -> Result<(), RuntimeError> {
        if Instant::now() > deadline {
            return Err(RuntimeError::Conflict(format!("the monitor of container {} does not end", self.id)));
        }
        std::thread::sleep(Duration::from_millis(1));
        Ok(())
    }
}
