//! What happens to containers, as docker's events: lines of JSON in `ferry/events.log`, cut when they get many.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
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
    let now = jiff::Timestamp::now();
    let event = json!({
        "status": action,
        "id": container.id,
        "from": container.config.image,
        "Type": "container",
        "Action": action,
        "Actor": {"ID": container.id, "Attributes": attributes},
        "scope": "local",
        "time": now.as_second(),
        "timeNano": i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX),
    });
    let _ = append(&path(store_root), &event);
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
        Ok(Self { path, reader, partial: Vec::new() })
    }

    /// The next event, if there is one by now.
    pub fn poll(&mut self) -> Result<Option<Value>, RuntimeError> {
        if self.reader.is_none() {
            match File::open(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                opened => self.reader = Some(BufReader::new(opened.at("open", &self.path)?)),
            }
        }
        let Some(reader) = &mut self.reader else { return Ok(None) };
        loop {
            reader.read_until(b'\n', &mut self.partial).at("read", &self.path)?;
            if self.partial.last() != Some(&b'\n') {
                if self.partial.len() > LINE_BYTES {
                    self.partial.clear();
                }
                return Ok(None);
            }
            let line = std::mem::take(&mut self.partial);
            if let Ok(event) = serde_json::from_slice(&line) {
                return Ok(Some(event));
            }
        }
    }
}
