//! What happens to containers, as docker's events: lines of JSON in `ferry/events.log`, cut when they get many.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::container::Container;
use super::error::RuntimeError;
use crate::base::AtPath;

/// The log is cut to half of this.
const LOG_BYTES: u64 = 4 << 20;
/// A longer line is none of ferry's.
const LINE_BYTES: usize = 64 << 10;

fn path(store_root: &Path) -> PathBuf {
    store_root.join("ferry/events.log")
}

/// Notes an event. That it cannot be noted is no reason not to do what it tells of.
pub fn record(store_root: &Path, container: &Container, action: &str, more: &[(&str, &str)]) {
    let mut attributes = json!({"image": container.config.image, "name": container.name});
    for (key, value) in &container.config.labels {
        attributes[key] = json!(value);
    }
    for (key, value) in more {
        attributes[*key] = json!(value);
    }
    let mut event = event("container", action, &container.id, &attributes);
    // What docker had before other things had events as well.
    event["status"] = json!(action);
    event["id"] = json!(container.id);
    event["from"] = json!(container.config.image);
    let _ = append(&path(store_root), &event);
}

/// Notes an event of something that is no container.
pub fn record_of(store_root: &Path, kind: &str, action: &str, id: &str, attributes: &[(&str, &str)]) {
    let mut all = json!({});
    for (key, value) in attributes {
        all[*key] = json!(value);
    }
    let _ = append(&path(store_root), &event(kind, action, id, &all));
}

fn event(kind: &str, action: &str, id: &str, attributes: &Value) -> Value {
    let now = jiff::Timestamp::now();
    json!({
        "Type": kind,
        "Action": action,
        "Actor": {"ID": id, "Attributes": attributes},
        "scope": "local",
        "time": now.as_second(),
        "timeNano": i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX),
    })
}

fn append(path: &Path, event: &Value) -> io::Result<()> {
    let mut file = File::options().append(true).create(true).open(path)?;
    // One write of a whole line: lines of several writers do not mix.
    file.write_all(format!("{event}\n").as_bytes())?;
    if file.metadata()?.len() > LOG_BYTES {
        let mut keep = BufReader::new(File::open(path)?);
        keep.seek(SeekFrom::Start(LOG_BYTES / 2))?;
        keep.skip_until(b'\n')?;
        let cut = path.with_extension("log.new");
        io::copy(&mut keep, &mut File::create(&cut)?)?;
        fs::rename(cut, path)?;
    }
    Ok(())
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
