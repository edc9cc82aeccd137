//! Copies a topic's records from the log into a file, each exactly once, across any crash.
//!
//! Order of steps: append lines, sync the file, then note in the store how far the log was read and how long the file
//! is. Opened again, the file is cut to the noted length and copying goes on from the noted offsets: lines of an
//! unnoted step are written again, the same.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use granary_cluster::Log;
use granary_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::embedded::Embedded;

/// Lines are synced and noted after so many bytes.
const STEP_BYTES_MAX: u64 = 8 << 20;

/// How far a file has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    offsets: Vec<u64>,
    file_bytes: u64,
}

/// A topic being copied into a file, one line for each record's value.
pub struct Export {
    store: Arc<Embedded>,
    topic: String,
    bookmark: String,
    path: PathBuf,
    file: BufWriter<File>,
    progress: Progress,
}

impl Export {
    /// Goes on copying `topic` into `DIR/<name>.changes.jsonl`, from the start if it never did. A file shorter than
    /// noted was changed by somebody else: that is an error.
    pub fn open(store: &Arc<Embedded>, topic: &str, dir: &Path, name: &str) -> Result<Export> {
        let path = dir.join(format!("{name}.changes.jsonl"));
        Export::to_file(store, topic, &path)
    }

    /// The same into a file of any name.
    pub fn to_file(store: &Arc<Embedded>, topic: &str, path: &Path) -> Result<Export> {
        let named = |e: std::io::Error| file_error(path, &e);
        let partitions = store
            .partitions(topic)?
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no topic `{topic}`")))?;
        // Without its directory, so that file and store may be moved together.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let bookmark = format!("export {topic} {name}");
        let mut progress: Progress = match store.bookmark(&bookmark)? {
            Some(bytes) => granary_core::codec::from_bytes(&bytes)?,
            None => Progress::default(),
        };
        progress.offsets.resize(partitions as usize, 0);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(named)?;
        }
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(named)?;
        let found = file.metadata().map_err(named)?.len();
        if found < progress.file_bytes {
            return Err(Error::invalid(format!(
                "{} has {found} bytes where {} were written: it was changed by another program; restore it, or start \
                 with an empty directory",
                path.display(),
                progress.file_bytes
            )));
        }
        file.set_len(progress.file_bytes).map_err(named)?;
        file.seek(SeekFrom::End(0)).map_err(named)?;
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(named)?;
        }
        Ok(Export {
            store: Arc::clone(store),
            topic: topic.to_owned(),
            bookmark,
            path: path.to_owned(),
            file: BufWriter::with_capacity(1 << 18, file),
            progress,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file that are there for good.
    pub fn file_bytes(&self) -> u64 {
        self.progress.file_bytes
    }

    /// Copies everything the log has now and notes it; returns how many records were copied.
    pub fn catch_up(&mut self) -> Result<u64> {
        let mut copied = 0;
        let mut next = self.progress.clone();
        for partition in 0..next.offsets.len() {
            let (_, end) = self.store.bounds(&self.topic, partition as u32)?;
            while next.offsets[partition] < end {
                let from = next.offsets[partition];
                next.offsets[partition] = self.copy(partition as u32, from, &mut next.file_bytes)?;
                copied += next.offsets[partition] - from;
                if next.file_bytes - self.progress.file_bytes >= STEP_BYTES_MAX {
                    self.note(&next)?;
                }
            }
        }
        if next != self.progress {
            self.note(&next)?;
        }
        Ok(copied)
    }

    fn copy(&mut self, partition: u32, from: u64, file_bytes: &mut u64) -> Result<u64> {
        let mut failed = None;
        let file = &mut self.file;
        let start = *file_bytes;
        let next = self.store.read_with_ids(&self.topic, partition, from, |_, entry| {
            if let Err(e) = file.write_all(entry.value).and_then(|()| file.write_all(b"\n")) {
                failed = Some(e);
                return false;
            }
            *file_bytes += entry.value.len() as u64 + 1;
            *file_bytes - start < STEP_BYTES_MAX
        })?;
        failed.map_or(Ok(next), |e| Err(file_error(&self.path, &e)))
    }

    fn note(&mut self, next: &Progress) -> Result<()> {
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        synced.map_err(|e| file_error(&self.path, &e))?;
        self.store.set_bookmark(&self.bookmark, &granary_core::codec::to_bytes(next)?)?;
        self.progress.clone_from(next);
        Ok(())
    }
}

fn file_error(path: &Path, e: &std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, format!("cannot write {}: {e}", path.display()))
}
