//! The container's output on disk, in the format of docker's json-file driver: one JSON object a line, `log`, `stream`,
//! `attrs` where there are any, and `time`; a line longer than 16 KiB is cut, and only its last piece ends with a newline.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::container::config::LogConfig;
use super::super::error::RuntimeError;
use super::log_files;
use crate::base::AtPath;

/// Docker's limit of one entry.
const LINE_BYTES: usize = 16 << 10;

/// One line of the log.
#[derive(Debug, Serialize, Deserialize)]
pub struct Entry<'a> {
    /// What was written.
    pub log: Cow<'a, str>,
    /// `stdout` or `stderr`.
    pub stream: Cow<'a, str>,
    /// What the log's options ask to be added.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attrs: Cow<'a, BTreeMap<String, String>>,
    /// RFC 3339 with nanoseconds.
    pub time: Cow<'a, str>,
}

/// Writes a container's log.
#[derive(Debug)]
pub struct Logger {
    path: PathBuf,
    file: File,
    size: u64,
    /// 0 for none.
    max_size: u64,
    max_files: u32,
    compress: bool,
    attributes: BTreeMap<String, String>,
    pending: [Vec<u8>; 2],
}

/// Parses docker's sizes (docker/go-units `RAMInBytes`): `10m`, `1.5g`, `64 MiB`, `4096`; `-1` is no limit. What is less
/// than a byte is dropped.
pub fn parse_size(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    if lower == "-1" {
        return Some(0);
    }
    let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match lower.get(number.len()..)? {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return None,
    };
    let number = number.strip_suffix(' ').unwrap_or(number);
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && decimals.is_empty()) || !whole.chars().chain(decimals.chars()).all(|c| c.is_ascii_digit()) {
        return None;
    }
    // No floats: a size is as it was written. Below 2^50 bytes the eighteenth decimal is less than a byte.
    let decimals = decimals.get(..18).unwrap_or(decimals);
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u64>().ok() };
    let part = (u128::from(digits(decimals)?) << shift) / 10u128.pow(u32::try_from(decimals.len()).ok()?);
    digits(whole)?.checked_mul(1 << shift)?.checked_add(u64::try_from(part).ok()?)
}

impl Logger {
    /// The logger that the settings ask for; `None` for the driver `none`. Options are refused as docker does it, when a
    /// container is started (moby `daemon/logger/jsonfilelog/jsonfilelog.go`).
    pub fn open(
        path: &Path,
        config: &LogConfig,
        attributes: BTreeMap<String, String>,
    ) -> Result<Option<Self>, RuntimeError> {
        match config.kind.as_str() {
            "none" => return Ok(None),
            "json-file" | "" => {}
            other => return Err(RuntimeError::usage(format!("log driver {other:?}: ferry has json-file and none"))),
        }
        let option = |key: &str| config.config.get(key).map(String::as_str);
        let bad = |what: &str| RuntimeError::usage(format!("log option {what}"));
        let size = |text: &str| parse_size(text).filter(|size| *size > 0);
        let max_size = option("max-size").map_or(Some(0), size);
        let max_size = max_size.ok_or_else(|| bad("max-size must be a positive size, as 10m"))?;
        let max_files = option("max-file").map_or(Ok(1), str::parse::<u32>).ok().filter(|number| *number > 0);
        let max_files = max_files.ok_or_else(|| bad("max-file must be a positive number"))?;
        let compress = match option("compress") {
            None | Some("0" | "f" | "F" | "false" | "FALSE" | "False") => false,
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => true,
            Some(_) => return Err(bad("compress must be true or false")),
        };
        if compress && (max_size == 0 || max_files == 1) {
            return Err(bad("compress cannot be true when max-file is less than 2 or max-size is not set"));
        }
        let file = File::options().append(true).create(true).open(path).at("open", path)?;
        let size = file.metadata().at("read", path)?.len();
        let (path, pending) = (path.to_owned(), [Vec::new(), Vec::new()]);
        Ok(Some(Self { path, file, size, max_size, max_files, compress, attributes, pending }))
    }

    /// Takes output of stream 1 (standard output) or 2 (standard error); whole lines are written.
    pub fn write(&mut self, stream: usize, bytes: &[u8]) -> io::Result<()> {
        let slot = usize::from(stream == 2);
        let mut rest = bytes;
        while !rest.is_empty() {
            let Some(pending) = self.pending.get_mut(slot) else { return Ok(()) };
            let room = LINE_BYTES.saturating_sub(pending.len());
            let window = rest.get(..rest.len().min(room)).unwrap_or(rest);
            let (taken, full) = match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => (end + 1, true),
                None => (window.len(), window.len() == room),
            };
            pending.extend_from_slice(rest.get(..taken).unwrap_or_default());
            rest = rest.get(taken..).unwrap_or_default();
            if full {
                let line = std::mem::take(pending);
                self.entry(stream, &line)?;
            }
        }
        Ok(())
    }

    /// Writes what has no newline yet: the program has ended.
    pub fn finish(&mut self) -> io::Result<()> {
        for stream in [1, 2] {
            let line = self.pending.get_mut(stream - 1).map(std::mem::take).unwrap_or_default();
            if !line.is_empty() {
                self.entry(stream, &line)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, stream: usize, line: &[u8]) -> io::Result<()> {
        let time = super::super::now();
        let stream = if stream == 2 { "stderr" } else { "stdout" };
        let attrs = Cow::Borrowed(&self.attributes);
        let entry = Entry { log: String::from_utf8_lossy(line), stream: stream.into(), attrs, time: time.into() };
        let mut bytes = serde_json::to_vec(&entry)?;
        bytes.push(b'\n');
        if self.max_size > 0 && self.size > 0 && self.size + bytes.len() as u64 > self.max_size {
            self.file = log_files::rotate(&self.path, self.max_files, self.compress)?;
            self.size = 0;
        }
        self.file.write_all(&bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn sizes_are_those_of_docker() {
        for (text, expected) in [
            ("4096", 4096),
            ("10b", 10),
            ("1.5g", 3 << 29),
            ("0.5g", 1 << 29),
            (".5k", 512),
            ("5.k", 5120),
            ("64 m", 64 << 20),
            ("1t", 1 << 40),
            ("512mb", 512 << 20),
            ("1GiB", 1 << 30),
            ("1p", 1 << 50),
            ("1.9", 1),
            ("1.1g", 1_181_116_006),
            ("9007199254740993", 9_007_199_254_740_993),
            ("18446744073709551615", u64::MAX),
            ("0.99999999999999999999999999k", 1023),
            ("-1", 0),
        ] {
            assert_eq!(parse_size(text), Some(expected), "{text}");
        }
        for text in [
            "",
            " ",
            ".",
            "m",
            "-2",
            "-1k",
            "-0.5",
            "+1",
            "nan",
            "inf",
            "infinity",
            "1e3",
            "1x",
            "1bb",
            "1bib",
            "1mbb",
            "1  m",
            "1 2m",
            "1m 2",
            "1.2.3",
            "1,5g",
            "18446744073709551616",
            "16384p",
            "16383.9999999999999999999999p0",
            "٣m",
        ] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    fn open(path: &Path, options: &[(&str, &str)]) -> Result<Option<Logger>, RuntimeError> {
        let config = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let attributes = [("a".to_owned(), "1".to_owned())].into();
        Logger::open(path, &LogConfig { config, ..LogConfig::default() }, attributes)
    }

    #[test]
    fn lines_are_whole_long_ones_are_cut_and_files_rotate() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = open(&path, &[]).unwrap().unwrap();
        log.write(1, b"a\nb").unwrap();
        log.write(2, b"err\n").unwrap();
        log.write(1, b"c\n").unwrap();
        log.write(1, &[b'x'; 20_000]).unwrap();
        log.finish().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("{\"log\":\"a\\n\",\"stream\":\"stdout\",\"attrs\":{\"a\":\"1\"},\"time\":\""),
            "{text}"
        );
        let read: Vec<(String, String)> = text
            .lines()
            .map(|line| serde_json::from_str::<Entry>(line).map(|e| (e.log.into(), e.stream.into())).unwrap())
            .collect();
        let expected = ["a\n", "err\n", "bc\n", &"x".repeat(LINE_BYTES), &"x".repeat(20_000 - LINE_BYTES)];
        assert_eq!(read.iter().map(|(log, _)| log.as_str()).collect::<Vec<_>>(), expected);
        assert_eq!(read[1].1, "stderr");

        let path = dir.path().join("rotated");
        let mut log = open(&path, &[("max-size", "1k"), ("max-file", "3")]).unwrap().unwrap();
        for _ in 0..100 {
            log.write(1, b"0123456789\n").unwrap();
        }
        assert!(log_files::open(&path, 2).is_ok() && log_files::open(&path, 3).is_err());
        assert!(fs::metadata(&path).unwrap().len() <= 1024);

        let path = dir.path().join("single");
        let mut log = open(&path, &[("max-size", "100")]).unwrap().unwrap();
        log.write(1, b"old\n").unwrap();
        let mut follower = File::open(&path).unwrap();
        log.write(1, b"new\n").unwrap();
        let (mut old, new) = (String::new(), fs::read_to_string(&path).unwrap());
        io::Read::read_to_string(&mut follower, &mut old).unwrap();
        assert!(old.contains("old") && !old.contains("new") && new.contains("new") && !new.contains("old"));
        assert!(log_files::open(&path, 1).is_err());
    }

    #[test]
    fn options_that_docker_refuses_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for (options, word) in [
            (&[("max-size", "x")][..], "max-size"),
            (&[("max-size", "0")], "max-size"),
            (&[("max-size", "-1")], "max-size"),
            (&[("max-file", "x")], "max-file"),
            (&[("max-file", "0")], "max-file"),
            (&[("compress", "x")], "compress must be"),
            (&[("compress", "true")], "compress cannot"),
            (&[("compress", "true"), ("max-size", "1m")], "compress cannot"),
            (&[("compress", "true"), ("max-file", "2")], "compress cannot"),
        ] {
            let failed = open(&path, options).unwrap_err().to_string();
            assert!(failed.contains(word), "{options:?}: {failed}");
        }
        for options in [
            &[("compress", "false")][..],
            &[("max-file", "3")],
            &[("compress", "true"), ("max-size", "1m"), ("max-file", "2")],
        ] {
            assert!(open(&path, options).is_ok(), "{options:?}");
        }
    }
}
