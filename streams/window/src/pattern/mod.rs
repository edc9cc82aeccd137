//! Patterns: sequences of events of one key that fit stages one after the other.
//!
//! | module | holds |
//! |---|---|
//! | [`mod@self`] | what a pattern shall find, and the mistakes found in it |
//! | `partial` | one selection of events that may still become a match |
//! | [`matcher`] | the state machine of one key |
//! | `written` | how that is stored, and read again |
//!
//! Events are taken in the order of (time, arrival): they wait until the watermark has reached their time. Every selection
//! of events that the stages allow is one match. The words are those of Flink's CEP library, and so is what they mean where
//! this page is silent.

pub mod matcher;
#[cfg(test)]
mod oracle;
mod partial;
#[cfg(test)]
mod tests;
mod written;

use std::ops::Range;

use granary_core::Span;

pub use matcher::{Found, Judge, Matcher, Pane, Selection};

use crate::spec::Mistake;

/// How an event follows the one taken before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Contiguity {
    /// It is the very next event of the key.
    Next,
    /// It is the first that fits: others are passed over.
    #[default]
    FollowedBy,
    /// It is any that fits: one that fits may be passed over, too.
    FollowedByAny,
}

/// What a match removes of the partial matches, and of the matches not yet reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Skip {
    /// Nothing: every match is reported at once.
    #[default]
    None,
    /// Those that began with the same event.
    ToNext,
    /// Those that began at or before its last event.
    PastLast,
    /// Those that began before the first event that this stage took.
    ToFirst(usize),
    /// Those that began before the last event that this stage took.
    ToLast(usize),
}

/// One stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// What rows call it. An absent stage takes nothing.
    pub name: Box<str>,
    /// How its first event follows the event taken before.
    pub contiguity: Contiguity,
    /// How each further event of it follows the one before.
    pub inner: Contiguity,
    /// It takes at least so many events.
    pub times_min: u32,
    /// And at most so many; `None`: any number.
    pub times_max: Option<u32>,
    /// It may be left out.
    pub is_optional: bool,
    /// While an event fits it, the match does not go on to a later stage.
    pub is_greedy: bool,
    /// No event that fits it may come: the very next one when [`Contiguity::Next`], else any up to the first event of the
    /// stage after it, that one included.
    pub is_absent: bool,
}

impl Stage {
    /// One event, the first that fits.
    pub fn new(name: &str) -> Stage {
        Stage {
            name: name.into(),
            contiguity: Contiguity::default(),
            inner: Contiguity::default(),
            times_min: 1,
            times_max: Some(1),
            is_optional: false,
            is_greedy: false,
            is_absent: false,
        }
    }

    fn may_take_more(&self, count: u32) -> bool {
        self.times_max.is_none_or(|max| count < max)
    }
}

/// What is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// The stages, in order.
    pub stages: Vec<Stage>,
    /// From the first event of a match to its last it takes less than this.
    pub within: Option<Span>,
    /// What a match removes.
    pub skip: Skip,
    /// Partial matches that [`Pattern::within`] ends give a row.
    pub timeouts: bool,
}

impl Pattern {
    /// These stages, and nothing else.
    pub fn new(stages: Vec<Stage>) -> Pattern {
        Pattern { stages, within: None, skip: Skip::None, timeouts: false }
    }

    /// The absent stages that follow a stage directly.
    fn absent_after(&self, stage: usize) -> Range<usize> {
        let count = self.stages.iter().skip(stage + 1).take_while(|next| next.is_absent).count();
        stage + 1..stage + 1 + count
    }

    /// Everything that is wrong with it.
    pub fn check(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut wrong = |field, message: String| mistakes.push(Mistake { field, message });
        let last = self.stages.len().wrapping_sub(1);
        if self.stages.first().is_none_or(|stage| stage.is_absent) {
            wrong("stages", "the first stage has to take an event".to_owned());
        }
        if !self.stages.iter().any(|stage| !stage.is_absent && !stage.is_optional) {
            wrong("stages", "all stages may be left out: nothing would be a match".to_owned());
        }
        for (i, stage) in self.stages.iter().enumerate() {
            if stage.times_min == 0 || stage.times_max.is_some_and(|max| max < stage.times_min) {
                wrong("times", format!("stage {i}: the most is at least the least, and that at least one"));
            }
            if stage.is_greedy && i == last {
                wrong("greedy", format!("stage {i}: there is no stage to go on to"));
            }
            if stage.is_absent && i == last && self.within.is_none() {
                wrong("within", format!("stage {i}: how long an absence at the end lasts is not said"));
            }
            if stage.is_absent && stage.contiguity == Contiguity::FollowedByAny {
                wrong("contiguity", format!("stage {i}: an absence is `next` or `followed_by`"));
            }
            let is_named_twice = |other: &Stage| !other.is_absent && other.name == stage.name;
            if !stage.is_absent && self.stages[..i].iter().any(is_named_twice) {
                wrong("name", format!("stage {i}: another one is called `{}`", stage.name));
            }
        }
        mistakes
    }
}
