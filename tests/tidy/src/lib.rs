//! What the project promises of itself, as tests: arrows between crates point down, the root holds what it may,
//! files stay short, words keep their meaning. The tests are in `tests/`; this crate finds the files for them.
//!
//! It reads the project as it is on disk and never changes it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The project's root directory.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("this crate is two directories below the root").to_owned()
}

/// A file of the project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its path from the root, with `/`.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// The files that belong to the project and are text: those git knows, or all when this is no checkout.
/// What the tests read as data is left out.
pub fn files(ends: &[&str]) -> Vec<File> {
    let root = root();
    let mut paths = tracked(&root).unwrap_or_else(|| found(&root));
    paths.retain(|path| ends.iter().any(|end| path.ends_with(end)) && !path.starts_with("tests/data/"));
    paths.sort();
    let read = |path: String| {
        // A file that was deleted and is not committed yet is no file of the project any more.
        let text = std::fs::read_to_string(root.join(&path)).ok()?;
        Some(File { path, text })
    };
    let files: Vec<File> = paths.into_iter().filter_map(read).collect();
    assert!(!files.is_empty(), "no files that end in {ends:?} below {}", root.display());
    files
}

/// The entries of the root directory.
pub fn root_entries() -> Vec<String> {
    let root = root();
    let paths = tracked(&root).unwrap_or_else(|| found(&root));
    let first = |path: String| path.split('/').next().unwrap_or_default().to_owned();
    let mut entries: Vec<String> = paths.into_iter().map(first).collect();
    entries.sort();
    entries.dedup();
    entries
}

fn tracked(root: &Path) -> Option<Vec<String>> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output().ok()?;
    let text = listed.status.success().then(|| String::from_utf8(listed.stdout).ok())??;
    let paths: Vec<String> = text.split_terminator('\0').map(str::to_owned).collect();
    (!paths.is_empty()).then_some(paths)
}

/// Every file below `root` that is not built.
fn found(root: &Path) -> Vec<String> {
    let mut paths = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        let entries = std::fs::read_dir(&directory).expect("the project can be read");
        for entry in entries {
            let path = entry.expect("the project can be read").path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if path.is_dir() && (name == "target" || name == ".git") {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else if let Ok(below) = path.strip_prefix(root) {
                paths.push(below.to_string_lossy().into_owned());
            }
        }
    }
    paths
}
