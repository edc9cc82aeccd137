//! Every row of a run in the order in which it was decided.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;

#[derive(Deserialize)]
struct Row {
    window_start: i64,
    device: String,
    category: String,
    revision: u64,
}

/// A window of a key.
type Identity = (String, String, i64);

/// What a file of changes holds, once it was found right.
#[derive(Debug, Default)]
pub struct Changes {
    /// All rows, sorted.
    pub sorted: Vec<String>,
    /// The last row of each window, sorted.
    pub last: Vec<String>,
}

/// Reads a file of changes. `Err` names the first row that repeats a revision or leaves one out.
pub fn check(path: &Path) -> Result<Changes, String> {
    let file = File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
    check_lines(BufReader::new(file).lines().map(|line| line.expect("a file of text")))
}

fn check_lines(lines: impl Iterator<Item = String>) -> Result<Changes, String> {
    let mut windows: BTreeMap<Identity, (u64, usize)> = BTreeMap::new();
    let mut all = Vec::new();
    for line in lines {
        let row: Row = serde_json::from_str(&line).map_err(|e| format!("{line}: {e}"))?;
        let place = all.len();
        let next = windows.entry((row.device, row.category, row.window_start)).or_insert((0, place));
        if row.revision != next.0 {
            return Err(format!("revision {} was to come: {line}", next.0));
        }
        *next = (next.0 + 1, place);
        all.push(line);
    }
    let mut last: Vec<String> = windows.into_values().map(|(_, place)| all[place].clone()).collect();
    last.sort_unstable();
    all.sort_unstable();
    Ok(Changes { sorted: all, last })
}

/// The lines of a file, sorted.
pub fn sorted_lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(start: i64, revision: u64) -> String {
        format!(r#"{{"window_start":{start},"device":"d","category":"c","revision":{revision}}}"#)
    }

    #[test]
    fn a_repeated_and_a_missing_revision_are_seen() {
        let check = |rows: &[(i64, u64)]| check_lines(rows.iter().map(|(start, n)| row(*start, *n)));
        let right = check(&[(0, 0), (5, 0), (0, 1)]).expect("nothing is wrong");
        assert_eq!((right.sorted.len(), right.last), (3, vec![row(0, 1), row(5, 0)]));
        assert!(check(&[(0, 0), (0, 0)]).is_err(), "twice");
        assert!(check(&[(0, 0), (0, 2)]).is_err(), "one is left out");
        assert!(check(&[(0, 1)]).is_err(), "the first is left out");
    }
}
