//! What is wrong with a configuration: all of it at once, each with its key, its place and the remedy.

use std::fmt;

use granary_core::Error;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The key, as in `store.kind`; empty when it is not about one key.
    pub key: String,
    /// Where it was set: a file, a variable, an argument.
    pub place: String,
    /// What is wrong and what is allowed.
    pub problem: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.problem)?;
        if !self.place.is_empty() {
            write!(f, " (set in {})", self.place)?;
        }
        Ok(())
    }
}

/// All mistakes of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl Mistakes {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn note(&mut self, key: &str, place: &str, problem: impl Into<String>) {
        self.0.push(Mistake { key: key.to_owned(), place: place.to_owned(), problem: problem.into() });
    }

    pub(super) fn and(mut self, key: &str, place: &str, problem: impl Into<String>) -> Mistakes {
        self.note(key, place, problem);
        self
    }
}

/// One line for each.
impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => write!(f, "1 mistake in the configuration:")?,
            count => write!(f, "{count} mistakes in the configuration:")?,
        }
        for mistake in &self.0 {
            write!(f, "\n  {mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

impl From<Mistakes> for Error {
    fn from(mistakes: Mistakes) -> Error {
        Error::invalid(mistakes.to_string())
    }
}

/// The allowed word a wrong one was probably meant to be.
pub(super) fn nearest<'w>(wrong: &str, allowed: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    let wrong = wrong.to_lowercase();
    let near = |word: &&'w str| {
        let distance = strsim::damerau_levenshtein(&wrong, word);
        (distance <= (word.len() / 3).max(1)).then_some(distance)
    };
    let measured = allowed.into_iter().filter_map(|word| Some((near(&word)?, word)));
    measured.min_by_key(|(distance, _)| *distance).map(|(_, word)| word)
}
