//! What a window step shall do. The words are those of the conformance cases.

use std::ops::RangeInclusive;

use granary_core::Span;

/// A window step. [`Spec::check`] tells whether it can be run.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Which windows an event falls into.
    pub window: Window,
    /// Whether windows follow the events' time or the wall clock.
    pub time: Time,
    /// How the watermark is found.
    pub watermark: Watermark,
    /// How long a window that is due still takes events.
    pub allowed_lateness: Lateness,
    /// When results come.
    pub emit: Emit,
    /// What a result covers.
    pub accumulation: Accumulation,
    /// Results before a window is due.
    pub early: Option<Early>,
    /// Copies are refused.
    pub dedup: Option<Dedup>,
    /// The values of a result.
    pub aggregates: Vec<Aggregate>,
    /// How long a closed window still answers with its last row.
    pub keep: Span,
    /// A session that became another withdraws its published row with a `delete` row, in every mode. Without it only
    /// `every_update` and `retracting` do.
    pub withdraw: bool,
}

/// Which windows an event at `ts` falls into. Windows are `[start, end)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// One after the other.
    Tumbling {
        /// Their length.
        size: Span,
        /// Where one of them starts, ms; may be negative.
        offset: i64,
    },
    /// A new one every `slide`.
    Hopping {
        /// Their length.
        size: Span,
        /// From start to start; greater than `size` leaves gaps.
        slide: Span,
        /// Where one of them starts, ms.
        offset: i64,
    },
    /// Tumbling windows that show their value at every `step`.
    Cumulate {
        /// The length of the last and longest.
        size: Span,
        /// From end to end.
        step: Span,
        /// Where one of them starts, ms.
        offset: i64,
    },
    /// As long as events follow each other within a gap.
    Session {
        /// The gap, when events do not carry their own.
        gap: Span,
        /// Whether a distance of exactly one gap joins.
        inclusive: bool,
        /// Each event carries its own gap.
        per_event: bool,
    },
    /// Anchored at events: both ends inclusive, `difference` apart.
    Sliding {
        /// From the first to the last time.
        difference: Span,
    },
    /// The last `size` events, after every `slide`-th.
    Count {
        /// How many events a result covers at most.
        size: u32,
        /// After how many events there is one.
        slide: u32,
    },
    /// One for each key, with one result at the end of the input.
    Global,
}

/// Whether windows follow the events' time or the wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Time {
    /// The time the event carries.
    #[default]
    Event,
    /// The wall clock as [`crate::Input::ProcessingTime`] shows it.
    Processing,
}

/// How the watermark is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// Whether each key has its own.
    pub per: Per,
    /// After each event the watermark is at least its time less this, less 1 ms; `None`: only explicit steps move it.
    pub out_of_orderness: Option<Span>,
    /// A key with a result to come that is silent for so long is closed; with a watermark per stream, the stream is.
    pub idle_after: Option<Span>,
    /// An event further ahead of its log time than this is set aside.
    pub future_guard: Option<Span>,
}

impl Default for Watermark {
    fn default() -> Self {
        Watermark { per: Per::Key, out_of_orderness: Some(Span::ZERO), idle_after: None, future_guard: None }
    }
}

/// Whose the watermark is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// Each key has its own.
    Key,
    /// One for all keys: the minimum over the partitions that are not idle.
    Stream {
        /// How many partitions, numbered from 0.
        partitions: u32,
    },
}

/// How long a window that is due still takes events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lateness {
    /// So long.
    Span(Span),
    /// Until the end of the input.
    Forever,
}

/// When results come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Emit {
    /// When the window is due, then after each late event.
    #[default]
    Watermark,
    /// Once, when the window closes.
    Final,
    /// After every event.
    EveryUpdate,
}

/// What a result covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accumulation {
    /// Everything in the window so far.
    #[default]
    Accumulating,
    /// What came since the window's last result.
    Discarding,
    /// As accumulating; before each result but the first the former one is taken back.
    Retracting,
}

/// Results before a window is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Early {
    /// After so many events.
    Count(u32),
    /// When the watermark passes multiples of this.
    EventTimeEvery(Span),
    /// So long after the first event since the last result, by the wall clock.
    ProcessingTimeDelay(Span),
}

/// Copies are refused: the first to arrive counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dedup {
    /// How long an id is remembered.
    pub horizon: Horizon,
}

/// How long an id is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Horizon {
    /// By the windows the event entered, until they close.
    Pane,
    /// Until the watermark is this far past the accepted event's time.
    Span(Span),
}

/// One value of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregate {
    /// Its name in the row.
    pub name: Box<str>,
    /// What it computes.
    pub function: Function,
    /// Which of [`crate::Event::values`] it reads.
    pub field: usize,
}

/// What an aggregate computes. All but `Count` pass over missing values (`First` and `Last` take them).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// Number of events.
    Count,
    /// Sum: exact for whole numbers (saturates beyond 128 bits), compensated for doubles.
    Sum,
    /// The smallest value.
    Min,
    /// The largest value.
    Max,
    /// The sum divided by the number of values, correctly rounded for whole numbers.
    Avg,
    /// Population variance.
    Variance,
    /// Number of different values, exact.
    Distinct,
    /// The value of the event with the smallest time; equal times: the earlier arrival.
    First,
    /// The value of the event with the largest time; equal times: the later arrival.
    Last,
    /// The so many largest values, largest first.
    Top(u32),
    /// All values, sorted.
    Ids,
    /// The first so many values in the order of their arrival.
    Collect(u32),
    /// Number of different values, about, in bounded memory: exact up to 512, then with a standard error of 1.63 %.
    ApproxDistinct,
    /// A number that a share of the numbers does not exceed, about, in bounded memory.
    Quantile(Quantile),
}

/// Which quantile, and how accurate it is. In millionths, so that two that are written alike are equal everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantile {
    /// Which one: 0 is the least number, half a million the median, a million the greatest number.
    pub q_ppm: u32,
    /// How far the result is at most from the number that it stands for, as a share of it.
    pub accuracy_ppm: u32,
}

/// Within which share quantiles are found unless something else is said: 1 %.
pub const ACCURACY_PPM_DEFAULT: u32 = 10_000;
/// A more accurate sketch would hold too little of the range of numbers, a less accurate one would say nothing.
pub const ACCURACY_PPM: RangeInclusive<u32> = 1_000..=500_000;

impl Quantile {
    /// The quantile `q`, from 0 to 1 with six decimals at most; what is none of these is a mistake of the spec.
    pub fn of(q: f64) -> Quantile {
        Quantile { q_ppm: ppm(q), accuracy_ppm: ACCURACY_PPM_DEFAULT }
    }

    /// Within this share instead of 0.01: from 0.001 to 0.5 with six decimals at most.
    pub fn within(self, accuracy: f64) -> Quantile {
        Quantile { accuracy_ppm: ppm(accuracy), ..self }
    }

    /// What is wrong with it.
    pub fn mistake(self) -> Option<&'static str> {
        if self.q_ppm > 1_000_000 {
            return Some("quantile: q from 0 to 1, with six decimals at most, expected");
        }
        let is_accurate = ACCURACY_PPM.contains(&self.accuracy_ppm);
        (!is_accurate)
            .then_some("quantile: an accuracy from 0.001 to 0.5, with six decimals at most, expected")
    }
}

impl From<f64> for Quantile {
    fn from(q: f64) -> Quantile {
        Quantile::of(q)
    }
}

/// The share in millionths; what is not a whole number of them, or not a share, becomes one that no check lets pass.
fn ppm(share: f64) -> u32 {
    let millionths = (share * 1e6).round();
    let is_whole = (share * 1e6 - millionths).abs() < 1e-6;
    if is_whole && (0.0..=1e6).contains(&millionths) { millionths as u32 } else { u32::MAX }
}

/// A mistake in a [`Spec`], for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The field, as the pipeline file writes it: `window.size`.
    pub field: &'static str,
    /// What is wrong, and what is allowed.
    pub message: String,
}

impl Spec {
    /// A step with these windows and aggregates and every default: event time, a watermark per key without disorder,
    /// no lateness, one result when due, accumulating.
    pub fn new(window: Window, aggregates: Vec<Aggregate>) -> Self {
        Spec {
            window,
            time: Time::Event,
            watermark: Watermark::default(),
            allowed_lateness: Lateness::Span(Span::ZERO),
            emit: Emit::Watermark,
            accumulation: Accumulation::Accumulating,
            early: None,
            dedup: None,
            aggregates,
            keep: Span::ZERO,
            withdraw: false,
        }
    }

    /// Every mistake in it; empty when it can be run.
    pub fn check(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut wrong = |field, message: &str| mistakes.push(Mistake { field, message: message.to_owned() });
        let zero = Span::ZERO;
        match self.window {
            Window::Tumbling { size, .. } if size == zero => wrong("window.size", "must be greater than 0"),
            Window::Hopping { size, .. } if size == zero => wrong("window.size", "must be greater than 0"),
            Window::Hopping { slide, .. } if slide == zero => wrong("window.slide", "must be greater than 0"),
            Window::Hopping { size, slide, .. } if size.ms() / slide.ms() > u64::from(WINDOWS_MAX) => {
                wrong("window.slide", "an event falls into more than 100000 windows: use a larger slide");
            }
            Window::Cumulate { size, .. } if size == zero => wrong("window.size", "must be greater than 0"),
            Window::Cumulate { step, .. } if step == zero => wrong("window.step", "must be greater than 0"),
            Window::Cumulate { size, step, .. } if size.ms() / step.ms() > u64::from(WINDOWS_MAX) => {
                wrong("window.step", "an event falls into more than 100000 windows: use a larger step");
            }
            Window::Session { gap, per_event: false, .. } if gap == zero => {
                wrong("window.gap", "must be greater than 0");
            }
            Window::Count { size: 0, .. } => wrong("window.size", "must be at least 1"),
            Window::Count { slide: 0, .. } => wrong("window.slide", "must be at least 1"),
            _ => {}
        }
        if let Per::Stream { partitions: 0 } = self.watermark.per {
            wrong("watermark.partitions", "must be at least 1");
        }
        match self.early {
            Some(_) if self.emit != Emit::Watermark => wrong("early", "needs emit: watermark"),
            Some(Early::Count(0)) => wrong("early.count", "must be at least 1"),
            Some(Early::EventTimeEvery(every)) if every == zero => {
                wrong("early.event_time_every", "must be greater than 0");
            }
            Some(Early::EventTimeEvery(_)) if self.time == Time::Processing => {
                wrong("early.event_time_every", "needs time: event");
            }
            _ => {}
        }
        let takes_copies =
            matches!(self.window, Window::Sliding { .. } | Window::Count { .. } | Window::Global);
        if self.dedup.is_some() && takes_copies {
            wrong("dedup", "stands before tumbling, hopping, cumulate and session windows only");
        }
        for aggregate in &self.aggregates {
            match aggregate.function {
                Function::Top(0) | Function::Collect(0) => {
                    wrong("aggregates", "top and collect need at least 1")
                }
                Function::Quantile(quantile) => {
                    quantile.mistake().into_iter().for_each(|mistake| wrong("aggregates", mistake));
                }
                _ => {}
            }
        }
        if self.aggregates.is_empty() {
            wrong("aggregates", "at least one is needed");
        }
        mistakes
    }
}

/// An event may fall into so many windows at most.
pub const WINDOWS_MAX: u32 = 100_000;
