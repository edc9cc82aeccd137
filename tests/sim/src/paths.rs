//! Names for the less common paths of the protocol, so that a test can tell whether they are walked at all.

use granary_cluster::Script;
use granary_cluster::slot::{Do, Dropped, Why};

/// A slot without a marker writes one before its first commit.
pub const MARKER_MISSING: &str = "marker missing";

/// Paths a simulation worth its name walks within a few seeds.
pub const PATHS: [&str; 9] = [
    "acquire above the marker",
    "rebase",
    "note",
    "trim",
    "give",
    "loss named",
    "rollback with a commit in flight",
    "dropped: fenced",
    MARKER_MISSING,
];

/// Last lines of defence: what they stop is stopped before, by the check of the server's run and by fencing. A run that
/// gets there has found something.
pub const DEFENCES: [&str; 2] = ["dropped: behind", "dropped: marker ahead"];

/// The path that a request of a slot tells of.
pub fn path(asked: &Do) -> Option<&'static str> {
    Some(match asked {
        Do::Script(Script::Acquire { me, expected, epoch, .. })
            if expected.0 == *me && epoch.0 > expected.1.0 + 1 =>
        {
            PATHS[0]
        }
        Do::Script(Script::Rebase { .. }) => PATHS[1],
        Do::Script(Script::Note { .. }) => PATHS[2],
        Do::Script(Script::Trim { .. }) => PATHS[3],
        Do::Script(Script::Give { .. }) => PATHS[4],
        Do::Lost { .. } => PATHS[5],
        Do::Drop(Dropped { why: Why::Rollback, awaited: Some(_), .. }) => PATHS[6],
        Do::Drop(Dropped { why: Why::Fenced, .. }) => PATHS[7],
        Do::Drop(Dropped { why: Why::Behind, .. }) => DEFENCES[0],
        Do::Drop(Dropped { why: Why::MarkerAhead, .. }) => DEFENCES[1],
        _ => return None,
    })
}
