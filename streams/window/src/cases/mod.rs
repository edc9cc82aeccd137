//! Conformance cases: a spec, a list of steps, and what must come out. They run through the same [`crate::Operator`]
//! that pipelines use.
//!
//! | module | holds |
//! |---|---|
//! | `parse` | case files, strictly: an unknown field inside `spec` is an error |
//! | `run` | steps through an operator, with state stored and loaded in between when asked to |
//! | `pattern`, `join`, `rank` | cases of patterns, joins and rankings |
//! | `compare` | what came out against what must |

mod compare;
mod join;
mod parse;
mod pattern;
mod rank;
mod run;

use serde_json::Value as Json;

pub use join::JoinCase;
pub use parse::{Case, Kind, Step, cases_of};
pub use pattern::PatternCase;
pub use rank::RankCase;
pub use run::{Disturbance, Observed, run};

/// What became of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseReport {
    /// The case's name.
    pub name: String,
    /// Whether it passed.
    pub outcome: CaseOutcome,
}

/// Whether a case passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaseOutcome {
    /// All lists are as expected.
    Passed,
    /// They are not, or the case cannot be read: what differs, for a person.
    Failed(String),
}

/// Runs all cases of a file, given as its text. A file that cannot be read as one is a single failed case named after
/// its group, or `file`.
pub fn run_file(text: &str) -> Vec<CaseReport> {
    let cases =
        serde_json::from_str::<Json>(text).map_err(|e| e.to_string()).and_then(|file| cases_of(&file));
    match cases {
        Ok(cases) => cases.iter().map(run_case).collect(),
        Err(why) => vec![CaseReport { name: "file".to_owned(), outcome: CaseOutcome::Failed(why) }],
    }
}

/// Runs one case, given as JSON.
pub fn run_case(case: &Json) -> CaseReport {
    let name = case.get("name").and_then(Json::as_str).unwrap_or("(without a name)").to_owned();
    let outcome = match Case::read(case) {
        Ok(case) => match run(&case, &mut |_| Disturbance::None) {
            Ok(observed) => match compare::difference(&observed, &case.expect) {
                None => CaseOutcome::Passed,
                Some(text) => CaseOutcome::Failed(text),
            },
            Err(why) => CaseOutcome::Failed(why),
        },
        Err(why) => CaseOutcome::Failed(why),
    };
    CaseReport { name, outcome }
}

pub use compare::difference;
