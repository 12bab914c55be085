//! What happens to containers, images, networks and volumes, as docker's events: lines of JSON in `ferry/events.log`, cut when they get many.
//! Who appends or cuts holds the log's lock, so that no line falls between the copy of what is kept and its renaming.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, openat};
use serde_json::{Value, json};

use super::container::Container;
use super::error::RuntimeError;
use crate::base::AtPath;
use crate::sys::lock::{FileLock, LockKind};

/// The log is cut to half of this.
const LOG_BYTES: u64 = 4 << 20;
/// A longer line is none of ferry's.
const LINE_BYTES: usize = 64 << 10;
/// How long the log's lock is waited for: its holder may have been frozen with a container, and no container waits for that.
const PATIENCE: Duration = Duration::from_secs(1);
/// What its second half is called while it is being cut.
const CUT: &str = "events.log.new";

/// The log's name, in the store's directory `ferry`.
const NAME: &str = "events.log";

fn path(store_root: &Path) -> PathBuf {
    store_root.join("ferry").join(NAME)
}

/// The log's text: what there still is of it.
pub fn text(store_root: &Path) -> Result<String, RuntimeError> {
    let (path, mut bytes) = (path(store_root), Vec::new());
    match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => drop(opened.and_then(|file| file.take(2 * LOG_BYTES).read_to_end(&mut bytes)).at("read", &path)?),
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Where events are noted, for a process that will not see the store by its path any more.
#[derive(Debug)]
pub struct Log(OwnedFd);

impl Log {
    /// The store's log.
    pub fn open(store_root: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(store_root.join("ferry"), flags, Mode::empty())?))
    }

    /// Notes an event of a container's. That it cannot be noted is no reason not to do what it tells of.
    pub fn record(&self, container: &Container, action: &str, more: &[(&str, &str)]) {
        let mut attributes = json!(container.config.labels);
        attributes["image"] = json!(container.config.image);
        attributes["name"] = json!(container.name);
        for (key, value) in more {
            attributes[*key] = json!(value);
        }
        let mut event = event("container", action, &container.id, &attributes);
        event["from"] = json!(container.config.image);
        let own = |key: &str| matches!(key, "image" | "name") || more.iter().any(|(known, _)| *known == key);
        let _ = self.append(event, own);
    }

    fn file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        Ok(openat(&self.0, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::from_raw_mode(0o644))?.into())
    }

    /// Appends an event, with its attributes as far as they fit on a line: those that are not its `own` are left out first.
    fn append(&self, event: Value, own: impl Fn(&str) -> bool) -> io::Result<()> {
        let line = line(event, own).ok_or(io::ErrorKind::InvalidInput)?;
        let Some(held) = self.lock()? else {
            // Not cut without the lock. That it is cut meanwhile by who has the lock may lose this line.
            return self.file(NAME, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE)?.write_all(line.as_bytes());
        };
        let mut file = held.file();
        // One write of a whole line: lines of several writers do not mix.
        file.write_all(line.as_bytes())?;
        if file.metadata()?.len() > LOG_BYTES {
            let mut keep = BufReader::new(self.file(NAME, OFlags::RDONLY)?);
            keep.seek(SeekFrom::Start(LOG_BYTES / 2))?;
            keep.skip_until(b'\n')?;
            let mut cut = self.file(CUT, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?;
            io::copy(&mut keep, &mut cut)?;
            rustix::fs::renameat(&self.0, CUT, &self.0, NAME)?;
        }
        Ok(())
    }

    /// The log, open for appending and locked; nothing when another holds it for too long.
    fn lock(&self) -> io::Result<Option<FileLock>> {
        let until = Instant::now() + PATIENCE;
        loop {
            let file = self.file(NAME, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE)?;
            if let Ok(held) = FileLock::attempt(file, LockKind::Exclusive)? {
                let there = self.file(NAME, OFlags::RDONLY)?.metadata()?;
                // It may have been cut since it was opened: then it is another file now.
                if held.file().metadata()?.ino() == there.ino() {
                    return Ok(Some(held));
                }
            } else if Instant::now() >= until {
                return Ok(None);
            } else {
                thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

/// An event's line. Of one that gets too long attributes are left out, the longest first, its own after all others; nothing if
/// that does not help.
fn line(mut event: Value, own: impl Fn(&str) -> bool) -> Option<String> {
    let whole = format!("{event}\n");
    let Some(mut over) = whole.len().checked_sub(LINE_BYTES).filter(|over| *over > 0) else { return Some(whole) };
    let attributes = event["Actor"]["Attributes"].as_object_mut()?;
    let size = |key: &str, value: &Value| json!(key).to_string().len() + value.to_string().len() + 2;
    let mut sizes: Vec<(bool, usize, String)> =
        attributes.iter().map(|(key, value)| (!own(key), size(key, value), key.clone())).collect();
    sizes.sort();
    while over > 0 {
        let (_, size, key) = sizes.pop()?;
        attributes.remove(&key);
        over = over.saturating_sub(size);
    }
    Some(format!("{event}\n")).filter(|line| line.len() <= LINE_BYTES)
}

/// Notes an event of a container's.
pub fn record(store_root: &Path, container: &Container, action: &str, more: &[(&str, &str)]) {
    if let Ok(log) = Log::open(store_root) {
        log.record(container, action, more);
    }
}

/// Notes an event of an image's: `name` is its ID for all that docker does not tell of one of its names.
pub fn record_image(store_root: &Path, action: &str, id: &str, name: &str) {
    record_of(store_root, "image", action, id, &[("name", name)]);
}

/// Notes that all of a kind went that nothing used, and how many bytes that freed.
pub fn record_prune(store_root: &Path, kind: &str, reclaimed: u64) {
    record_of(store_root, kind, "prune", "", &[("reclaimed", &reclaimed.to_string())]);
}

/// Notes an event of something that is no container.
pub fn record_of(store_root: &Path, kind: &str, action: &str, id: &str, attributes: &[(&str, &str)]) {
    let mut all = json!({});
    for (key, value) in attributes {
        all[*key] = json!(value);
    }
    if let Ok(log) = Log::open(store_root) {
        let _ = log.append(event(kind, action, id, &all), |_| true);
    }
}

fn event(kind: &str, action: &str, id: &str, attributes: &Value) -> Value {
    let now = jiff::Timestamp::now();
    let mut event = json!({
        "Type": kind,
        "Action": action,
        "Actor": {"ID": id, "Attributes": attributes},
        "scope": "local",
        "time": now.as_second(),
        "timeNano": i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX),
    });
    // What docker had before other things had events as well.
    if matches!(kind, "container" | "image") {
        event["status"] = json!(action);
        if !id.is_empty() {
            event["id"] = json!(id);
        }
    }
    event
}

/// Reads events as they come.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    reader: Option<BufReader<File>>,
    partial: Vec<u8>,
    /// The time of the last event given, in nanoseconds.
    last: i64,
    seen_before_cut: i64,
}

impl Follower {
    /// Starts at the first event that is still there, or at the end.
    pub fn open(store_root: &Path, from_start: bool) -> Result<Self, RuntimeError> {
        let path = path(store_root);
        let reader = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            opened => {
                let mut file = opened.at("open", &path)?;
                if !from_start {
                    file.seek(SeekFrom::End(0)).at("read", &path)?;
                }
                Some(BufReader::new(file))
            }
        };
        Ok(Self { path, reader, partial: Vec::new(), last: 0, seen_before_cut: 0 })
    }

    /// The next event, if there is one by now.
    pub fn poll(&mut self) -> Result<Option<Value>, RuntimeError> {
        if self.reader.is_none() {
            match File::open(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                opened => self.reader = Some(BufReader::new(opened.at("open", &self.path)?)),
            }
        }
        loop {
            let Some(reader) = &mut self.reader else { return Ok(None) };
            reader.read_until(b'\n', &mut self.partial).at("read", &self.path)?;
            if self.partial.last() != Some(&b'\n') {
                if self.partial.len() > LINE_BYTES {
                    self.partial.clear();
                }
                if !self.cut()? {
                    return Ok(None);
                }
                continue;
            }
            let line = std::mem::take(&mut self.partial);
            let Ok(event) = serde_json::from_slice::<Value>(&line) else { continue };
            let time = event["timeNano"].as_i64().unwrap_or(0);
            if time > self.seen_before_cut {
                self.last = self.last.max(time);
                return Ok(Some(event));
            }
        }
    }

    /// Whether the log has been cut since: its second half is a new file now, of which most has been seen.
    fn cut(&mut self) -> Result<bool, RuntimeError> {
        let (Some(reader), Ok(there)) = (&self.reader, fs::metadata(&self.path)) else { return Ok(false) };
        if reader.get_ref().metadata().at("read", &self.path)?.ino() == there.ino() {
            return Ok(false);
        }
        self.reader = Some(BufReader::new(File::open(&self.path).at("open", &self.path)?));
        self.seen_before_cut = self.last;
        self.partial.clear();
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(attributes: &Value) -> Value {
        event("container", "start", "id", attributes)
    }

    #[test]
    fn an_event_is_kept_without_the_attributes_that_do_not_fit() {
        let long = |bytes: usize| "x".repeat(bytes);
        for (attributes, left) in [
            (json!({"name": "c", "a": "b"}), &["a", "name"][..]),
            (json!({"name": "c", "a": "b", "big": long(100 << 10)}), &["a", "name"]),
            (json!({"name": long(40 << 10), "a": long(30 << 10), "b": long(10 << 10)}), &["b", "name"]),
            (json!({"name": long(100 << 10), "a": "b"}), &[]),
            (json!({"name": "c", "quotes": "\"".repeat(40 << 10)}), &["name"]),
        ] {
            let line = line(with(&attributes), |key| key == "name").unwrap();
            assert!(line.len() <= LINE_BYTES && line.ends_with('\n'));
            let event: Value = serde_json::from_str(&line).unwrap();
            let mut kept: Vec<&String> = event["Actor"]["Attributes"].as_object().unwrap().keys().collect();
            kept.sort();
            assert_eq!(kept, left);
        }
        let mut many = json!({"name": "c", "exitCode": "255"});
        for number in 0..10_000 {
            many[number.to_string()] = json!("");
        }
        let line = line(with(&many), |key| matches!(key, "name" | "exitCode")).unwrap();
        let event: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["Actor"]["Attributes"]["exitCode"], "255");
        assert!(line.len() > LINE_BYTES - 100);
    }

    #[test]
    fn no_line_is_lost_while_the_log_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("ferry")).unwrap();
        let filler = "x".repeat(50 << 10);
        thread::scope(|scope| {
            for writer in 0..4 {
                let (dir, filler) = (dir.path(), &filler);
                scope.spawn(move || {
                    for number in 0..60 {
                        let log = Log::open(dir).unwrap();
                        let attributes = json!({"writer": writer, "number": number, "filler": filler});
                        log.append(with(&attributes), |_| true).unwrap();
                    }
                });
            }
        });
        let text = text(dir.path()).unwrap();
        assert!(text.len() as u64 <= LOG_BYTES);
        let mut left = vec![Vec::new(); 4];
        for line in text.lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            let attributes = &event["Actor"]["Attributes"];
            left[attributes["writer"].as_u64().unwrap() as usize].push(attributes["number"].as_u64().unwrap());
        }
        for numbers in left {
            let first = numbers.first().copied().unwrap_or(60);
            assert_eq!(numbers, (first..60).collect::<Vec<_>>());
        }
    }
}
