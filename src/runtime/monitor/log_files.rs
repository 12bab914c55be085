//! A log's files: `x`, and those that were rotated, `x.1`, `x.2` … or compressed `x.1.gz`, `x.2.gz` …; the lower the number,
//! the newer the file.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flate2::bufread::GzDecoder;
use flate2::{Compression, GzBuilder};

/// A line of the log is at most a cut line of output and its attributes, escaped.
const LINE_BYTES: u64 = 256 << 10;

/// One of a log's files, open for reading.
pub struct LogFile {
    reader: Box<dyn BufRead>,
    /// The inode that it has, or had before it was compressed.
    inode: u64,
    /// The beginning of a line whose end has not been written yet.
    partial: String,
}

impl LogFile {
    fn new(reader: impl BufRead + 'static, inode: u64) -> Self {
        Self { reader: Box::new(reader), inode, partial: String::new() }
    }

    /// The next line, with its line break; `None` at the end, behind which the current file may grow.
    pub fn next_line(&mut self) -> io::Result<Option<String>> {
        self.reader.by_ref().take(LINE_BYTES).read_line(&mut self.partial)?;
        Ok(self.partial.ends_with('\n').then(|| std::mem::take(&mut self.partial)))
    }
}

/// The path of the file of a number, 0 being the current one.
fn numbered(log: &Path, number: u32) -> PathBuf {
    if number == 0 { log.to_owned() } else { with(log, &format!(".{number}")) }
}

fn packed(path: &Path) -> PathBuf {
    with(path, ".gz")
}

fn with(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Opens the file of a number, 0 being the current one.
pub fn open(log: &Path, number: u32) -> io::Result<LogFile> {
    let path = numbered(log, number);
    match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound && number > 0 => {
            let unpacked = GzDecoder::new(BufReader::new(File::open(packed(&path))?));
            let comment = unpacked.header().and_then(|header| header.comment());
            let inode = comment.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
            Ok(LogFile::new(BufReader::new(unpacked), inode.unwrap_or(0)))
        }
        opened => {
            let file = opened?;
            let inode = file.metadata()?.ino();
            Ok(LogFile::new(BufReader::new(file), inode))
        }
    }
}

/// The files that were begun after `than`, the oldest first: none as long as that is the current one.
pub fn newer(log: &Path, than: &LogFile) -> io::Result<Vec<LogFile>> {
    let mut newer: Vec<LogFile> = Vec::new();
    for number in 0.. {
        match open(log, number) {
            Ok(file) if file.inode == than.inode => break,
            // It has been given the next number since it was opened.
            Ok(file) if newer.last().is_some_and(|last| last.inode == file.inode) => {}
            Ok(file) => newer.push(file),
            // Between its rename and the new one's making the current file is not there.
            Err(error) if error.kind() == ErrorKind::NotFound && number == 0 => {}
            Err(error) if error.kind() == ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        }
    }
    newer.reverse();
    Ok(newer)
}

/// Begins a new current file: the old one gets the number 1, each other the next. There are `most` files then, the current
/// one among them.
pub fn rotate(log: &Path, most: u32, compress: bool) -> io::Result<File> {
    if most == 1 {
        // A new file in the old one's place: who follows the log is still reading the old one.
        let new = with(log, ".new");
        let file = File::create(&new)?;
        fs::rename(new, log)?;
        return Ok(file);
    }
    let is_there = |number: u32| numbered(log, number).exists() || packed(&numbered(log, number)).exists();
    let last = (1..most).find(|number| !is_there(*number)).unwrap_or(most - 1);
    for number in (1..=last).rev() {
        let (from, to) = (numbered(log, number - 1), numbered(log, number));
        shift(&from, &to)?;
        shift(&packed(&from), &packed(&to))?;
    }
    let file = File::options().append(true).create(true).open(log)?;
    if compress {
        // What cannot be compressed, for want of room perhaps, is kept as it is.
        let _ = pack(&numbered(log, 1));
    }
    Ok(file)
}

/// Moves a file. One that is not there leaves nothing in its new place.
fn shift(from: &Path, to: &Path) -> io::Result<()> {
    let is_missing = |result: &io::Result<()>| result.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound);
    let moved = fs::rename(from, to);
    if !is_missing(&moved) {
        return moved;
    }
    let removed = fs::remove_file(to);
    if is_missing(&removed) { Ok(()) } else { removed }
}

/// Compresses a file. The header's comment is the inode that it had: who follows the log knows by that where it was.
fn pack(path: &Path) -> io::Result<()> {
    let (whole, new) = (packed(path), with(path, ".new"));
    let mut from = File::open(path)?;
    let inode = from.metadata()?.ino().to_string();
    let to = GzBuilder::new().comment(inode).write(File::create(&new)?, Compression::default());
    let written = copy(&mut from, to).and_then(|()| fs::rename(&new, &whole));
    if written.is_err() {
        let _ = fs::remove_file(&new);
        return written;
    }
    fs::remove_file(path)
}

fn copy(from: &mut File, mut to: flate2::write::GzEncoder<File>) -> io::Result<()> {
    io::copy(from, &mut to)?;
    to.finish().map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn text(mut file: LogFile) -> String {
        let mut text = String::new();
        file.reader.read_to_string(&mut text).unwrap();
        text
    }

    fn all(log: &Path) -> Vec<String> {
        (0..).map_while(|number| open(log, number).ok()).map(text).collect()
    }

    #[test]
    fn files_get_the_next_number_and_the_last_one_goes() {
        let dir = tempfile::tempdir().unwrap();
        for compress in [false, true] {
            let log = dir.path().join(format!("log-{compress}"));
            fs::write(&log, "0").unwrap();
            for number in 1..5 {
                rotate(&log, 3, compress).unwrap().write_all(number.to_string().as_bytes()).unwrap();
            }
            assert_eq!(all(&log), ["4", "3", "2"], "compressed: {compress}");
            assert_eq!((numbered(&log, 1).exists(), packed(&numbered(&log, 1)).exists()), (!compress, compress));
        }
        // As large a number as there is takes no longer.
        let log = dir.path().join("many");
        fs::write(&log, "0").unwrap();
        rotate(&log, u32::MAX, false).unwrap();
        assert_eq!(all(&log), ["", "0"]);
    }

    #[test]
    fn what_was_not_compressed_in_time_is_neither_lost_nor_read_twice() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs::write(&log, "2").unwrap();
        // Killed before it was compressed, and before the compressed one took its place.
        fs::write(numbered(&log, 1), "1").unwrap();
        fs::copy(numbered(&log, 1), dir.path().join("kept")).unwrap();
        pack(&numbered(&log, 1)).unwrap();
        fs::rename(dir.path().join("kept"), numbered(&log, 1)).unwrap();
        assert_eq!(all(&log), ["2", "1"]);
        rotate(&log, 4, true).unwrap();
        rotate(&log, 4, true).unwrap();
        assert_eq!(all(&log), ["", "", "2", "1"]);
        rotate(&log, 4, true).unwrap();
        assert_eq!(all(&log), ["", "", "", "2"]);
    }

    #[test]
    fn who_follows_gets_every_file_since_its_own_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        for compress in [false, true] {
            let log = dir.path().join(format!("log-{compress}"));
            fs::write(&log, "0").unwrap();
            let own = open(&log, 0).unwrap();
            assert!(newer(&log, &own).unwrap().is_empty());
            for number in 1..4 {
                rotate(&log, 9, compress).unwrap().write_all(number.to_string().as_bytes()).unwrap();
            }
            let found: Vec<_> = newer(&log, &own).unwrap().into_iter().map(text).collect();
            assert_eq!(found, ["1", "2", "3"], "compressed: {compress}");
        }
    }
}
