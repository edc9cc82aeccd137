//! Named fail points before and after each arrow of a commit's way, for tests that kill a process at an exact place.
//!
//! Unarmed, a point costs one relaxed load. Whoever starts the process arms them with a text such as
//! `commit.before=3:exit` (the third passing ends the process); nothing here reads the environment.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use granary_core::{Error, ErrorKind};

/// Every fail point there is.
pub const POINTS: [&str; 24] = [
    "fetch.before",
    "fetch.after",
    "apply.before",
    "apply.after",
    "seal.before",
    "seal.after",
    "commit.before",
    "commit.after",
    "reply.before",
    "reply.after",
    "begin.before",
    "begin.after",
    "send.before",
    "send.after",
    "markers.before",
    "markers.after",
    "end.before",
    "end.after",
    "trim.before",
    "trim.after",
    "fence.before",
    "fence.after",
    "give.before",
    "give.after",
];

/// What an armed point does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ends the process at once, without destructors or flushing, as a kill would.
    Exit,
    /// Panics.
    Panic,
    /// Makes [`point`] answer `Err`.
    Err,
}

/// An injected failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injected {
    /// At which point.
    pub point: &'static str,
}

impl fmt::Display for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "injected failure at {}", self.point)
    }
}

impl std::error::Error for Injected {}

impl From<Injected> for Error {
    fn from(injected: Injected) -> Error {
        Error::new(ErrorKind::Unavailable, injected.to_string())
    }
}

/// One point of an arming text.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Armed {
    point: &'static str,
    passings_left: u64,
    action: Action,
}

static ANY_ARMED: AtomicBool = AtomicBool::new(false);
static ARMED: Mutex<Vec<Armed>> = Mutex::new(Vec::new());

/// Passes a fail point. `Err` only where a test asked for it.
///
/// # Panics
/// When the point is armed with `panic`, and, in debug builds, when there is no point of this name.
#[inline]
pub fn point(name: &'static str) -> Result<(), Injected> {
    debug_assert!(POINTS.contains(&name), "no fail point is called {name}");
    if ANY_ARMED.load(Ordering::Relaxed) { passed(name) } else { Ok(()) }
}

#[cold]
fn passed(name: &'static str) -> Result<(), Injected> {
    let due = {
        let mut armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
        count(&mut armed, name)
    };
    match due {
        None => Ok(()),
        Some(Action::Err) => Err(Injected { point: name }),
        Some(Action::Panic) => panic!("injected panic at {name}"),
        Some(Action::Exit) => std::process::abort(),
    }
}

/// Counts one passing; a point that is due has done its work and is gone.
fn count(armed: &mut Vec<Armed>, name: &str) -> Option<Action> {
    let mut due = None;
    armed.retain_mut(|each| {
        if each.point != name {
            return true;
        }
        each.passings_left -= 1;
        if each.passings_left == 0 {
            due = due.or(Some(each.action));
        }
        each.passings_left > 0
    });
    due
}

/// Arms the points of a text, in place of those armed before: `point[=passing][:action]`, separated by commas.
/// The passing counts from 1 (the default); the action is `exit` (the default), `panic` or `err`. An empty text arms
/// nothing.
pub fn arm(text: &str) -> granary_core::Result<()> {
    let parsed = parse(text)?;
    let any = !parsed.is_empty();
    *ARMED.lock().unwrap_or_else(PoisonError::into_inner) = parsed;
    ANY_ARMED.store(any, Ordering::Relaxed);
    Ok(())
}

fn parse(text: &str) -> granary_core::Result<Vec<Armed>> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(parse_one).collect()
}

fn parse_one(part: &str) -> granary_core::Result<Armed> {
    let wrong = |why: String| Error::new(ErrorKind::Invalid, format!("fail point {part:?}: {why}"));
    let (place, action) = part.split_once(':').unwrap_or((part, "exit"));
    let (name, passing) = place.split_once('=').unwrap_or((place, "1"));
    let point = *POINTS
        .iter()
        .find(|point| **point == name)
        .ok_or_else(|| wrong(format!("there is none called {name:?}; there are {}", POINTS.join(", "))))?;
    let passings_left = match passing.parse() {
        Ok(n) if n > 0 => n,
        _ => return Err(wrong(format!("{passing:?} is not a passing; they count from 1"))),
    };
    let action = match action {
        "exit" => Action::Exit,
        "panic" => Action::Panic,
        "err" => Action::Err,
        other => return Err(wrong(format!("{other:?} is not an action; there are exit, panic, err"))),
    };
    Ok(Armed { point, passings_left, action })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_arrow_has_a_point_before_and_after() {
        let arrows = [
            "fetch", "apply", "seal", "commit", "reply", "begin", "send", "markers", "end", "trim", "fence",
            "give",
        ];
        let expected: Vec<String> =
            arrows.iter().flat_map(|arrow| [format!("{arrow}.before"), format!("{arrow}.after")]).collect();
        assert_eq!(POINTS.to_vec(), expected);
    }

    #[test]
    fn texts_are_read_or_explained() {
        let armed = parse("commit.before=3:panic, seal.after, end.before:err").unwrap();
        let shown: Vec<_> = armed.iter().map(|a| (a.point, a.passings_left, a.action)).collect();
        assert_eq!(
            shown,
            [
                ("commit.before", 3, Action::Panic),
                ("seal.after", 1, Action::Exit),
                ("end.before", 1, Action::Err)
            ]
        );
        assert_eq!(parse("").unwrap(), []);
        for (text, word) in [
            ("comit.before", "comit.before"),
            ("commit.before=0", "count from 1"),
            ("commit.before=x:err", "count from 1"),
            ("commit.before:stop", "stop"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn a_point_is_due_at_its_passing_and_only_once() {
        let mut armed = parse("seal.before=3:err").unwrap();
        let seen: Vec<bool> = (0..5)
            .map(|_| {
                assert_eq!(count(&mut armed, "seal.after"), None);
                count(&mut armed, "seal.before").is_some()
            })
            .collect();
        assert_eq!(seen, [false, false, true, false, false]);
    }

    /// The only test that arms the process: others run beside it, so it uses a point they do not pass.
    #[test]
    fn an_armed_process_fails_where_it_was_told_to() {
        assert_eq!(point("give.after"), Ok(()));
        arm("give.after=2:err").unwrap();
        assert_eq!(point("give.after"), Ok(()));
        assert_eq!(point("give.after"), Err(Injected { point: "give.after" }));
        arm("give.after:panic").unwrap();
        assert!(std::panic::catch_unwind(|| point("give.after")).is_err());
        arm("").unwrap();
        assert_eq!(point("give.after"), Ok(()));
    }
}
