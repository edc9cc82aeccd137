//! A file as a source: one record a line, the offset is the line number less one.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use flate2::read::MultiGzDecoder;
use granary_cluster::Batch;
use granary_core::{Error, ErrorKind, Result, Timestamp};
use granary_engine::Source;
use granary_engine::config::OpenSource;

/// The longest line that is kept whole. A longer one is cut there: it breaks the size rule of any decoder.
const LINE_BYTES_MAX: usize = 16 << 20;

/// Bytes read from the file at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// A file, read line by line. `.gz` files are unpacked on the way.
pub struct FileSource {
    path: PathBuf,
    lines: Option<BufReader<Box<dyn Read + Send>>>,
    /// The next line, from 0.
    line: u64,
    modified_at: Timestamp,
    is_at_end: bool,
}

impl FileSource {
    /// Opens these files, one for each partition.
    pub fn opener(files: Vec<PathBuf>) -> OpenSource {
        Arc::new(move |partition| {
            let path = &files[partition as usize];
            let modified =
                std::fs::metadata(path).and_then(|m| m.modified()).map_err(|e| unreadable(path, &e))?;
            let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
            let modified_at = Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
            let path = path.clone();
            Ok(Box::new(FileSource { path, lines: None, line: 0, modified_at, is_at_end: false }))
        })
    }

    fn lines(&mut self) -> Result<&mut BufReader<Box<dyn Read + Send>>> {
        if self.lines.is_none() {
            let bytes = open(&self.path).map_err(|e| unreadable(&self.path, &e))?;
            self.lines = Some(BufReader::with_capacity(BUFFER_BYTES, bytes));
            self.line = 0;
            self.is_at_end = false;
        }
        Ok(self.lines.as_mut().expect("opened just now"))
    }

    /// The next line without its LF into `line`; false at the end.
    fn next_line(&mut self, line: &mut Vec<u8>) -> Result<bool> {
        line.clear();
        let path = self.path.clone();
        let lines = self.lines()?;
        let mut any = false;
        loop {
            let chunk = lines.fill_buf().map_err(|e| unreadable(&path, &e))?;
            if chunk.is_empty() {
                break;
            }
            any = true;
            let end = memchr::memchr(b'\n', chunk);
            let text = &chunk[..end.unwrap_or(chunk.len())];
            let room = (LINE_BYTES_MAX - line.len()).min(text.len());
            line.extend_from_slice(&text[..room]);
            let used = text.len() + usize::from(end.is_some());
            lines.consume(used);
            if end.is_some() {
                break;
            }
        }
        self.is_at_end = !any;
        self.line += u64::from(any);
        Ok(any)
    }
}

impl Source for FileSource {
    fn read(&mut self, from: u64, bytes_max: usize, batch: &mut Batch) -> Result<()> {
        if from < self.line {
            self.lines = None;
            self.line = 0;
        }
        let goes_on = self.lines.is_some() && from == self.line;
        if !goes_on {
            tracing::info!(file = %self.path.display(), from, "reading begins");
        }
        let mut line = Vec::with_capacity(256);
        while self.line < from {
            if !self.next_line(&mut line)? {
                let message = format!(
                    "{}: has {} lines, reading was to go on after line {from}: it is another file, or was cut",
                    self.path.display(),
                    self.line
                );
                return Err(Error::new(ErrorKind::Invalid, message));
            }
        }
        while batch.bytes() < bytes_max {
            let offset = self.line;
            if !self.next_line(&mut line)? {
                break;
            }
            batch.push(offset, self.modified_at, None, &line);
        }
        Ok(())
    }

    fn has_ended(&mut self, at: u64) -> Result<bool> {
        Ok(self.is_at_end && at >= self.line)
    }
}

/// Opens a file; `.gz` is unpacked on the way.
pub(crate) fn open(path: &Path) -> io::Result<Box<dyn Read + Send>> {
    let file = File::open(path)?;
    let is_packed = path.extension().is_some_and(|e| e == "gz");
    Ok(if is_packed { Box::new(MultiGzDecoder::new(BufReader::new(file))) } else { Box::new(file) })
}

/// Reads files that another one names, by their paths from where that one is.
pub(crate) fn beside(path: &Path) -> impl Fn(&str) -> std::result::Result<String, String> {
    let folder = path.parent().unwrap_or(Path::new(".")).to_path_buf();
    move |name| std::fs::read_to_string(folder.join(name)).map_err(|e| e.to_string())
}

fn unreadable(path: &Path, e: &std::io::Error) -> Error {
    Error::new(ErrorKind::NotFound, format!("{}: cannot be read: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(source: &mut FileSource, from: u64) -> Vec<(u64, Vec<u8>)> {
        let mut batch = Batch::default();
        source.read(from, 1 << 20, &mut batch).unwrap();
        batch.iter(granary_cluster::SourceId(0), 0).map(|r| (r.offset, r.value.to_vec())).collect()
    }

    #[test]
    fn every_line_is_a_record_the_empty_and_the_last_ones_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in.jsonl");
        std::fs::write(&path, b"a\n\nb\r\nlast").unwrap();
        let mut opened = (FileSource::opener(vec![path.clone()]))(0).unwrap();
        let mut batch = Batch::default();
        opened.read(0, 1 << 20, &mut batch).unwrap();
        assert_eq!(batch.len(), 4);
        assert!(!opened.has_ended(3).unwrap() && opened.has_ended(4).unwrap());
        let mut source =
            FileSource { path, lines: None, line: 0, modified_at: Timestamp(0), is_at_end: false };
        let expected = [(2, b"b\r".to_vec()), (3, b"last".to_vec())];
        assert_eq!(lines(&mut source, 2), expected);
        assert_eq!(lines(&mut source, 0).len(), 4, "going back reads again");
        assert_eq!(lines(&mut source, 2), expected);
    }

    #[test]
    fn a_file_that_became_shorter_is_said_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in.jsonl");
        std::fs::write(&path, b"a\n").unwrap();
        let mut source =
            FileSource { path, lines: None, line: 0, modified_at: Timestamp(0), is_at_end: false };
        let error = source.read(5, 100, &mut Batch::default()).unwrap_err();
        assert!(error.to_string().contains("has 1 lines"), "{error}");
    }
}
