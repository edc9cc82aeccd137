//! What lies in the root, how long files are, which words they use, and that the pages errors name exist.

use granary_core::ErrorKind;
use granary_tidy::{File, files, root, root_entries};

/// What the root holds besides dot-files.
const ROOT: [&str; 11] = [
    "ARCHITECTURE.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "client",
    "deploy",
    "grains",
    "silo",
    "streams",
];

/// Files longer than this are named.
const LINES_WISHED: usize = 400;

/// Files longer than this fail.
const LINES_MAX: usize = 500;

/// Words that have a better one here, and where they may stand all the same.
const BANNED: [(&str, &str, &[&str]); 4] = [
    ("actor", "grain or lane", &["silo/engine/", "ARCHITECTURE.md", "README.md"]),
    ("shard", "slot", &[]),
    ("partition-key", "routing key", &[]),
    // Of a YAML document, of a syntax tree, of a Kafka broker.
    (
        "node",
        "silo",
        &["streams/src/file/", "streams/src/rules/", "grains/macros/", "tests/harness/src/kafka.rs"],
    ),
];

/// Marks of what is not finished.
const UNFINISHED: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// This file names the words it looks for.
const SELF: &str = "tests/tidy/";

#[test]
fn the_root_holds_only_what_it_may() {
    let is_allowed = |entry: &String| entry.starts_with('.') || entry == "tests" || ROOT.contains(&&**entry);
    let strange: Vec<_> = root_entries().into_iter().filter(|entry| !is_allowed(entry)).collect();
    assert!(strange.is_empty(), "these have no place in the root: {strange:?}");
}

#[test]
fn files_are_short() {
    let mut long: Vec<(usize, String)> =
        files(&[".rs"]).into_iter().map(|file| (file.text.lines().count(), file.path)).collect();
    long.retain(|(lines, _)| *lines > LINES_WISHED);
    long.sort();
    for (lines, path) in &long {
        println!("{path}: {lines} lines, at most {LINES_WISHED} are wished for");
    }
    let too_long: Vec<_> = long.iter().filter(|(lines, _)| *lines > LINES_MAX).collect();
    assert!(too_long.is_empty(), "more than {LINES_MAX} lines: {too_long:?}");
}

/// Whether `word` stands in `line` as a word of its own, alone or in the plural.
fn holds(line: &str, word: &str) -> bool {
    let line = line.to_lowercase();
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let rest = &line[at + word.len()..];
        let after = rest.strip_prefix('s').unwrap_or(rest).chars().next();
        !before.is_some_and(is_part_of_word) && !after.is_some_and(is_part_of_word)
    })
}

fn is_part_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The lines of `files` that `is_wrong`, as `path:line: text`.
fn lines(files: &[File], is_wrong: impl Fn(&File, &str) -> bool) -> Vec<String> {
    let mut wrong = Vec::new();
    for file in files.iter().filter(|file| !file.path.starts_with(SELF)) {
        for (number, line) in file.text.lines().enumerate() {
            if is_wrong(file, line) {
                wrong.push(format!("{}:{}: {}", file.path, number + 1, line.trim()));
            }
        }
    }
    wrong
}

#[test]
fn one_word_per_idea() {
    let files = files(&[".rs", ".md", ".yaml", ".toml"]);
    for (word, better, except) in BANNED {
        let wrong = lines(&files, |file, line| {
            !except.iter().any(|place| file.path.starts_with(place)) && holds(line, word)
        });
        assert!(wrong.is_empty(), "`{word}` is called {better} here:\n{}", wrong.join("\n"));
    }
}

#[test]
fn a_banned_word_is_seen() {
    assert!(holds("the Node that", "node") && holds("two nodes.", "node") && holds("(actor)", "actor"));
    assert!(!holds("the nodeless", "node") && !holds("factor", "actor") && !holds("node_of", "node"));
}

#[test]
fn nothing_is_left_unfinished() {
    let files = files(&[".rs", ".md", ".yaml", ".toml", "Makefile"]);
    let wrong = lines(&files, |_, line| UNFINISHED.iter().any(|mark| line.contains(mark)));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_kind_of_error_has_its_page() {
    for kind in ErrorKind::ALL {
        let path = root().join("deploy/errors").join(format!("{}.md", kind.code()));
        let page = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let title = page.lines().next().unwrap_or_default();
        assert!(
            title.starts_with("# ")
                && title.contains(&kind.code())
                && title.to_lowercase().contains(kind.name()),
            "{}: the title `{title}` names code and kind",
            path.display()
        );
    }
}

#[test]
fn every_module_says_what_it_is_for() {
    let mut silent = Vec::new();
    for file in files(&[".rs"]) {
        let is_case = file.path.contains("/tests/") && file.path.matches('/').count() > 3;
        let is_test_module = file.path.ends_with("tests.rs");
        if !is_case && !is_test_module && !file.text.starts_with("//!") {
            silent.push(file.path);
        }
    }
    assert!(silent.is_empty(), "these do not begin with `//!`: {silent:?}");
}
