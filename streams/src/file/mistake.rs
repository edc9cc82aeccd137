//! What is wrong with a plan, all of it at once, each with its place.

use std::fmt;

/// Mistakes reported at most: a file with more is not a pipeline.
const MISTAKES_MAX: usize = 200;

/// A place in a file; both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

impl Place {
    pub(crate) const START: Place = Place { line: 1, column: 1 };
}

/// One mistake: where, what, and what is allowed instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where it stands; `None` for a plan made by code.
    pub place: Option<Place>,
    /// What is wrong and what to write instead, for a person.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some(place) => write!(f, "line {}, column {}: {}", place.line, place.column, self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// Everything that is wrong with a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mistakes {
    list: Vec<Mistake>,
}

impl Mistakes {
    pub(crate) fn add(&mut self, place: impl Into<Option<Place>>, message: String) {
        let mistake = Mistake { place: place.into(), message };
        if self.list.len() < MISTAKES_MAX && !self.list.contains(&mistake) {
            self.list.push(mistake);
        }
    }

    /// A word that is not known here: what is allowed, the nearest first.
    pub(crate) fn unknown(
        &mut self,
        place: impl Into<Option<Place>>,
        what: &str,
        word: &str,
        allowed: &[&str],
    ) {
        let nearest = nearest(word, allowed).map_or(String::new(), |near| format!(" did you mean `{near}`?"));
        let allowed = if allowed.is_empty() {
            "none is allowed here".to_owned()
        } else {
            format!("allowed: {}", allowed.join(", "))
        };
        self.add(place, format!("unknown {what} `{word}`;{nearest} {allowed}"));
    }

    /// Those of a part: what has no place is said to be of that part.
    pub(crate) fn add_part(&mut self, part: &str, mistakes: Mistakes) {
        for Mistake { place, message } in mistakes.list {
            self.add(place, if place.is_some() { message } else { format!("{part}: {message}") });
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The mistakes in the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.list.iter()
    }

    pub(crate) fn sort(&mut self) {
        self.list.sort_by_key(|mistake| mistake.place);
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, mistake) in self.list.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// The allowed word that is written most alike, if any is alike at all.
pub(crate) fn nearest<'a>(word: &str, allowed: &[&'a str]) -> Option<&'a str> {
    let distance = |near: &str| strsim::damerau_levenshtein(&word.to_lowercase(), near);
    let near = allowed.iter().copied().min_by_key(|near| distance(near))?;
    let limit = (word.chars().count().max(near.chars().count()) / 2).max(1);
    (distance(near) <= limit).then_some(near)
}
