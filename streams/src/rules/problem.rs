//! What is wrong with a rules file: place, code, and what to write instead.

use std::fmt;

use crate::file::{Mistakes, Place};

/// Problems reported at most.
const PROBLEMS_MAX: usize = 200;

/// One problem of a rules file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands.
    pub place: Place,
    /// `E1..`: the file is refused. `W2..`: a hint.
    pub code: &'static str,
    /// What is wrong and what to write instead, for a person.
    pub message: String,
}

/// The codes, by what they are about.
pub(crate) mod code {
    /// The form of the file: YAML, names, types of members.
    pub const FORM: &str = "E100";
    /// A field of the event.
    pub const FIELD: &str = "E104";
    /// A condition.
    pub const CONDITION: &str = "E106";
    /// A length of time.
    pub const LENGTH: &str = "E110";
    /// A limit, a measure, a unit.
    pub const LIMIT: &str = "E112";
    /// Numbers that do not fit each other.
    pub const NUMBERS: &str = "E121";
    /// Cases.
    pub const CASE: &str = "E123";
    /// A list.
    pub const LIST: &str = "E125";
    /// Names that stand twice.
    pub const TWICE: &str = "E130";
    /// A test of the file.
    pub const TEST: &str = "E140";
    /// A rule looks at fields that may be missing.
    pub const OPTIONAL: &str = "W201";
}

impl Problem {
    /// Whether the file is refused for it.
    pub fn is_error(&self) -> bool {
        self.code.starts_with('E')
    }
}

/// As `23:14  E104  spend-30m: unknown field "amout"`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { line, column } = self.place;
        write!(f, "{:<8}{}  {}", format!("{line}:{column}"), self.code, self.message)
    }
}

/// All that is wrong with a file, in the order of their places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    pub(crate) fn add(&mut self, place: Place, code: &'static str, message: String) {
        let problem = Problem { place, code, message };
        if self.0.len() < PROBLEMS_MAX && !self.0.contains(&problem) {
            self.0.push(problem);
        }
    }

    /// Takes over what readers of the form have noted.
    pub(crate) fn take(&mut self, mistakes: &Mistakes) {
        for mistake in mistakes.iter() {
            let place = mistake.place.unwrap_or(Place { line: 1, column: 1 });
            self.add(place, code::FORM, mistake.message.clone());
        }
    }

    pub(crate) fn sort(&mut self) {
        self.0.sort_by_key(|problem| problem.place);
    }

    /// The problems.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    /// Whether the file is refused.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(Problem::is_error)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
