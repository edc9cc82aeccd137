//! Rules: what is unusual about an event, seen beside the other events of its key.
//!
//! | module | holds |
//! |---|---|
//! | [`mod@self`] | the words: what a rule looks for |
//! | `set` | the rules on one key, made ready to run |
//! | `kept` | the events of one key, in order, in chunks |
//! | `sliding` | totals over a stretch of those events |
//! | `steps` | how far sequences have come |
//! | `verdict` | whether an event is a hit, exactly |
//! | [`judge`] | the state machine of one slot |
//! | `fill` | events that rules have not seen, handed over a second time |
//! | `forget` | what is kept no longer |
//! | `due` | what falls due for a key though no event of it comes |
//! | `cells`, `written` | what of it is stored, and how that is written |
//!
//! There is one definition of truth: the alerts that follow when the events of a key are judged in the order of (time, id),
//! each id once, late ones set aside. A rule that judges on arrival corrects itself when an event comes out of order: it
//! raises what it had missed and withdraws what does not hold. So raised less withdrawn is the same set, however the events
//! arrive within the lateness.
//!
//! Numbers are whole: money in its minor unit, decimals in units of their last place. All comparisons are exact.

mod cells;
mod due;
mod fill;
#[cfg(test)]
mod fill_tests;
mod forget;
pub mod judge;
mod kept;
#[cfg(test)]
mod oracle;
mod set;
mod sliding;
mod steps;
#[cfg(test)]
mod tests;
mod verdict;
mod wide;
mod written;

use granary_core::{Span, Timestamp};

pub use fill::Fill;
pub use judge::{Change, Decision, Judge, Outcome};
pub use set::{Names, Set};
pub use verdict::{Hit, Measured, Piece};

/// Units of a degree: coordinates are whole numbers of them.
pub const DEGREE_UNITS: f64 = 1e7;
/// A number that is not there.
pub const ABSENT: i64 = i64::MIN;
/// The greatest magnitude of a number, in units of its last place: up to it squares and sums of [`LAST_MAX`] are exact.
pub const NUMBER_MAX: i64 = 1 << 53;
/// The most events a rule may look back on by their number.
pub const LAST_MAX: u32 = 10_000;
/// Rules in one set.
pub const RULES_MAX: usize = 1_024;
/// Events that are kept of one key. More push out the oldest, which is counted.
pub const KEPT_MAX: usize = 1 << 21;
/// Events that an alert names; of more it names the last ones.
pub const EVIDENCE_MAX: usize = 50;
/// Events that one step of a sequence may ask for.
pub const TIMES_MAX: u32 = 100;
/// Steps of a sequence.
pub const STEPS_MAX: usize = 16;

/// A number of an event, by its place in the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Number(pub u16);

/// A text of an event, by its place in the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Text(pub u16);

/// A condition on a single event, by its place in the set. Somebody else has evaluated it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Condition(pub u16);

/// What a condition said of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    Yes,
    /// It does not.
    No,
    /// A field that it needs is missing, or of another type.
    Unknown,
}

/// An event as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Fact<'a> {
    /// What names it among the events of its key.
    pub id: &'a [u8],
    /// When it happened.
    pub time: Timestamp,
    /// Where it was read: how far one partition has come says nothing of another.
    pub partition: u64,
    /// Its numbers; [`ABSENT`] for one that is missing. The magnitude of the others is at most [`NUMBER_MAX`].
    pub numbers: &'a [i64],
    /// Its texts.
    pub texts: &'a [Option<&'a [u8]>],
    /// What the conditions say of it.
    pub truths: &'a [Truth],
}

impl Fact<'_> {
    /// Whether nothing is missing in it.
    fn is_whole(&self) -> bool {
        !self.numbers.contains(&ABSENT)
            && !self.truths.contains(&Truth::Unknown)
            && self.texts.iter().all(Option::is_some)
    }
}

/// A fraction; the lower part is positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    /// The upper part.
    pub num: i64,
    /// The lower part.
    pub den: i64,
}

/// How a measure is compared with a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
}

/// What a measure must be for a hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// How it is compared.
    pub comparison: Comparison,
    /// With what, in units of the measure.
    pub value: Ratio,
}

/// What is measured over the events of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// How many there are.
    Count,
    /// What their numbers add up to.
    Sum(Number),
    /// That, divided by how many have the number.
    Avg(Number),
    /// The least number.
    Min(Number),
    /// The greatest number.
    Max(Number),
    /// How many different texts there are.
    Distinct(Text),
}

/// To which side of the mean a value must lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sides {
    /// Above it.
    #[default]
    Above,
    /// Below it.
    Below,
    /// Either.
    Both,
}

/// How the events of a sequence follow each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Contiguity {
    /// Others may lie between them.
    #[default]
    Relaxed,
    /// Each directly after the one before.
    Strict,
}

/// A step of a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it is called.
    pub name: Box<str>,
    /// Which events it takes.
    pub when: Condition,
    /// At least so many.
    pub times_min: u32,
    /// At most so many; `None`: as many as come.
    pub times_max: Option<u32>,
}

/// What a rule looks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// An event for which the rule's condition holds.
    Match {
        /// The number that an alert shows.
        shows: Option<Number>,
    },
    /// A measure over the events in (t - window, t] that passes a limit.
    Velocity {
        /// What is measured.
        measure: Measure,
        /// Over how long.
        window: Span,
        /// What makes a hit.
        limit: Limit,
    },
    /// A number greater than so many times the mean of those before it.
    Deviation {
        /// The number.
        of: Number,
        /// Of how many events before.
        last: u32,
        /// With fewer there is no verdict.
        events_min: u32,
        /// How many times the mean.
        ratio: Ratio,
    },
    /// A number so many standard deviations (of the population) from the mean of those before it.
    ZScore {
        /// The number.
        of: Number,
        /// Of how many events before.
        last: u32,
        /// With fewer there is no verdict.
        events_min: u32,
        /// How many deviations.
        z: Ratio,
        /// To which side.
        sides: Sides,
    },
    /// Two places one after the other, farther apart than one can travel meanwhile.
    Geo {
        /// Latitude, in units of 1e-7 degrees.
        lat: Number,
        /// Longitude, in units of 1e-7 degrees.
        lon: Number,
        /// Faster than this, in km/h.
        speed_kmh: f64,
        /// Nearer places never count, in km.
        distance_km_min: f64,
        /// A place longer ago does not count.
        gap_max: Span,
        /// An event for which this holds is no hit.
        unless: Option<Condition>,
    },
    /// Events that fit steps, one step after the other. An event serves one hit.
    Sequence {
        /// The steps.
        steps: Vec<Step>,
        /// From the first event to the last at most so long.
        within: Span,
        /// How they follow each other.
        contiguity: Contiguity,
    },
    /// More than this without an event.
    Silence {
        /// So long.
        gap: Span,
        /// The alert is of the last event, as soon as it is certain that none came in time. Else it is of the first event after
        /// the silence.
        is_timed: bool,
    },
    /// A text that no event in (t - forget, t) of the key had.
    FirstSeen {
        /// The text.
        of: Text,
        /// Only for keys with so many events before.
        events_min: u64,
        /// How long a text is remembered.
        forget: Span,
    },
}

/// One rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The events it looks at; `None`: all.
    pub when: Option<Condition>,
    /// What it looks for.
    pub kind: Kind,
    /// After an alert at t its key is silent while an event's time is less than t + cooldown.
    pub cooldown: Span,
}

/// When events are judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// At once; what comes out of order corrects what was said.
    #[default]
    OnArrival,
    /// When nothing can come before them any more. Nothing is ever corrected.
    OnWatermark,
}
