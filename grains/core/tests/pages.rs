//! Every error kind has a page that says what to do, and the page agrees with the code.

use std::fs;
use std::path::PathBuf;

use granary_core::{Error, ErrorKind, Ran};

fn pages() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/errors")
}

fn page(kind: ErrorKind) -> String {
    let path = pages().join(format!("{}.md", kind.code()));
    fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("{} has no page {}: {e}", kind.name(), path.display()))
}

#[test]
fn every_kind_has_a_page_that_answers_the_four_questions() {
    for kind in ErrorKind::ALL {
        let page = page(kind);
        assert!(page.starts_with(&format!("# {}: {}\n", kind.code(), kind.name())), "{page}");
        for part in ["**Did it run?**", "**Sent again as it is:**", "**As a caller.**", "**As an operator.**"]
        {
            assert_eq!(page.matches(part).count(), 1, "{}: {part}", kind.code());
        }
    }
}

#[test]
fn the_example_is_a_message_of_its_kind() {
    for kind in ErrorKind::ALL {
        let page = page(kind);
        let mut examples = page.lines().filter_map(|line| line.strip_prefix("    "));
        let example = examples.next().unwrap_or_else(|| panic!("{} has an example", kind.code()));
        assert!(example.starts_with(&format!("{}: ", kind.name())), "{example}");
        assert!(example.ends_with(&format!(" ({})", kind.code())), "{example}");
        assert_eq!(examples.next(), None, "{}", kind.code());
    }
}

#[test]
fn pages_and_code_agree_on_what_may_be_sent_again() {
    for kind in ErrorKind::ALL {
        let retryable = Error::new(kind, "x").ran(Ran::No).is_retryable();
        let said = if retryable {
            "**Sent again as it is:** when it did not run."
        } else {
            "**Sent again as it is:** never."
        };
        assert!(page(kind).contains(said), "{} should say: {said}", kind.code());
    }
}

#[test]
fn the_index_names_every_page_and_no_other_exists() {
    let index = fs::read_to_string(pages().join("README.md")).expect("the index is there");
    let mut found: Vec<String> = fs::read_dir(pages())
        .expect("the pages are there")
        .map(|entry| entry.expect("a readable entry").file_name().to_string_lossy().into_owned())
        .collect();
    found.sort();
    let mut wanted: Vec<String> = ErrorKind::ALL.iter().map(|kind| format!("{}.md", kind.code())).collect();
    wanted.push("README.md".to_owned());
    assert_eq!(found, wanted);
    for kind in ErrorKind::ALL {
        let row = format!("| [{0}]({0}.md) | {1} |", kind.code(), kind.name());
        assert!(index.contains(&row), "no row {row}");
    }
}
