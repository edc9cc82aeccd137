//! The window step of the builder.

use granary_core::Span;
use granary_window::{
    Accumulation, Aggregate, Dedup, Emit, Function, Horizon, Lateness, Quantile, Spec, Value, Window,
};

use super::results::Results;
use super::value::{Number, Segment, Shown};
use super::{Keyed, Stream, name_of};
use crate::plan::{Column, ColumnKind};

/// One window after the other.
#[derive(Clone, Copy, Debug)]
pub struct Tumbling {
    size: Span,
    offset: i64,
}

impl Tumbling {
    /// Windows of this length, aligned to 1970.
    pub const fn of(size: Span) -> Tumbling {
        Tumbling { size, offset: 0 }
    }

    /// Aligned to `offset_ms` after 1970 instead.
    pub const fn offset_ms(self, offset_ms: i64) -> Tumbling {
        Tumbling { offset: offset_ms, ..self }
    }
}

/// Overlapping windows.
#[derive(Clone, Copy, Debug)]
pub struct Hopping {
    size: Span,
    slide: Span,
}

impl Hopping {
    /// Windows of this length; say [`Hopping::every`] how far apart they start.
    pub const fn of(size: Span) -> Hopping {
        Hopping { size, slide: size }
    }

    /// From start to start.
    pub const fn every(self, slide: Span) -> Hopping {
        Hopping { slide, ..self }
    }
}

/// Windows that show their value at every step until they are full.
#[derive(Clone, Copy, Debug)]
pub struct Cumulate {
    size: Span,
    step: Span,
}

impl Cumulate {
    /// Windows of this length, cut at every `step`.
    pub const fn of(size: Span, step: Span) -> Cumulate {
        Cumulate { size, step }
    }
}

/// Windows as long as events follow each other.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    gap: Span,
    inclusive: bool,
}

impl Session {
    /// A session ends after a silence of this length.
    pub const fn gap(gap: Span) -> Session {
        Session { gap, inclusive: false }
    }

    /// A distance of exactly one gap still joins.
    pub const fn inclusive(self) -> Session {
        Session { inclusive: true, ..self }
    }
}

/// Windows anchored at events, both ends inclusive.
#[derive(Clone, Copy, Debug)]
pub struct Sliding {
    difference: Span,
}

impl Sliding {
    /// From the first to the last event of a window.
    pub const fn of(difference: Span) -> Sliding {
        Sliding { difference }
    }
}

/// Windows of so many events.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    size: u32,
    slide: u32,
}

impl Count {
    /// The last `size` events, after every `size`-th.
    pub const fn of(size: u32) -> Count {
        Count { size, slide: size }
    }

    /// After every `slide`-th instead.
    pub const fn every(self, slide: u32) -> Count {
        Count { slide, ..self }
    }
}

macro_rules! into_window {
    ($($name:ident { $($field:ident),* } => $window:expr;)*) => {$(
        impl From<$name> for Window {
            fn from($name { $($field),* }: $name) -> Window {
                $window
            }
        }
    )*};
}

into_window! {
    Tumbling { size, offset } => Window::Tumbling { size, offset };
    Hopping { size, slide } => Window::Hopping { size, slide, offset: 0 };
    Cumulate { size, step } => Window::Cumulate { size, step, offset: 0 };
    Session { gap, inclusive } => Window::Session { gap, inclusive, per_event: false };
    Sliding { difference } => Window::Sliding { difference };
    Count { size, slide } => Window::Count { size, slide };
}

/// Events in windows: say what is computed of them.
#[must_use = "a stream does nothing until its plan is run"]
pub struct WindowStream<T> {
    pub(super) stream: Stream<T>,
    pub(super) key: usize,
    pub(super) name: Box<str>,
    pub(super) by: Vec<Column>,
    pub(super) spec: Spec,
    /// The columns the aggregates read.
    pub(super) inputs: Vec<usize>,
    pub(super) drops: u32,
}

impl<T: 'static> WindowStream<T> {
    pub(super) fn new(keyed: Keyed<T>, window: Window) -> WindowStream<T> {
        let Keyed { stream, key, fields: _ } = keyed;
        let mut spec = Spec::new(window, Vec::new());
        spec.watermark = stream.watermark;
        spec.withdraw = matches!(window, Window::Session { .. });
        spec.dedup = stream.id.map(|_| Dedup { horizon: Horizon::Pane });
        let name = format!("{}-windows", name_of(&stream.topic)).into();
        WindowStream { stream, key, name, by: Vec::new(), spec, inputs: Vec::new(), drops: 0 }
    }

    /// Names the step: its state belongs to the name, and windows are found by it. Unique in a cluster; without it,
    /// the step is named after the topic.
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// Windows per `segment` below the key: they share the key's clock.
    pub fn by<K: Segment + ?Sized>(
        self,
        name: &str,
        segment: impl Fn(&T) -> &K + Send + Sync + 'static,
    ) -> Self {
        let mut this = self.column(name, ColumnKind::Any, move |value, column, decoded| {
            decoded.set(column, segment(value).value());
        });
        this.by.extend(this.stream.columns.last().cloned());
        this
    }

    /// How long a window that is due still takes events; without it, not at all.
    pub fn allowed_lateness(mut self, span: Span) -> Self {
        self.spec.allowed_lateness = Lateness::Span(span);
        self
    }

    /// Windows take late events for ever: their panes, ids and clocks are kept for ever.
    pub fn allowed_lateness_forever(mut self) -> Self {
        self.spec.allowed_lateness = Lateness::Forever;
        self
    }

    /// How often the stored state of this step was given up: raise it by one when the step has changed so that its state
    /// cannot be read any more, and is to begin anew.
    pub fn drop_state(mut self, times: u32) -> Self {
        self.drops = times;
        self
    }

    /// When results come; without it, when a window is due, then after each late event.
    pub fn emit(mut self, emit: Emit) -> Self {
        self.spec.emit = emit;
        self
    }

    /// What a result covers; without it, everything in the window so far.
    pub fn accumulation(mut self, accumulation: Accumulation) -> Self {
        self.spec.accumulation = accumulation;
        self
    }

    /// How long a closed window still answers with its last row.
    pub fn keep(mut self, span: Span) -> Self {
        self.spec.keep = span;
        self
    }

    /// How long copies are recognised; without it, as long as the window lives.
    pub fn dedupe_horizon(mut self, span: Span) -> Self {
        self.spec.dedup = self.spec.dedup.map(|_| Dedup { horizon: Horizon::Span(span) });
        self
    }

    /// The number of events.
    pub fn count(self) -> Results<T, u64> {
        self.result("count", Function::Count, 0)
    }

    /// The sum: exact for integers, compensated for doubles.
    pub fn sum<N: Number + 'static>(self, number: impl Fn(&T) -> N + Send + Sync + 'static) -> Results<T, N> {
        self.of_number("sum", Function::Sum, number)
    }

    /// The smallest number.
    pub fn min<N: Number + 'static>(self, number: impl Fn(&T) -> N + Send + Sync + 'static) -> Results<T, N> {
        self.of_number("min", Function::Min, number)
    }

    /// The largest number.
    pub fn max<N: Number + 'static>(self, number: impl Fn(&T) -> N + Send + Sync + 'static) -> Results<T, N> {
        self.of_number("max", Function::Max, number)
    }

    /// The average.
    pub fn avg<N: Number + 'static>(
        self,
        number: impl Fn(&T) -> N + Send + Sync + 'static,
    ) -> Results<T, f64> {
        self.of_number("avg", Function::Avg, number)
    }

    /// A quantile, within 1 %: `0.5` is the median, `0.99` what one number in a hundred exceeds. For another accuracy
    /// say [`Quantile::within`]: `quantile(Quantile::of(0.99).within(0.001), |m| m.watts)`.
    pub fn quantile<N: Number + 'static>(
        self,
        quantile: impl Into<Quantile>,
        number: impl Fn(&T) -> N + Send + Sync + 'static,
    ) -> Results<T, f64> {
        self.of_number("quantile", Function::Quantile(quantile.into()), number)
    }

    /// The number of different values.
    pub fn distinct<V: Segment>(self, of: impl Fn(&T) -> V + Send + Sync + 'static) -> Results<T, u64> {
        self.of_value("distinct", Function::Distinct, of)
    }

    /// The number of different values, about, in bounded memory: exact up to 512, then with a standard error of 1.63 %.
    pub fn approx_distinct<V: Segment>(
        self,
        of: impl Fn(&T) -> V + Send + Sync + 'static,
    ) -> Results<T, u64> {
        self.of_value("approx_distinct", Function::ApproxDistinct, of)
    }

    fn of_value<S: Segment, V: Shown>(
        self,
        name: &str,
        function: Function,
        of: impl Fn(&T) -> S + Send + Sync + 'static,
    ) -> Results<T, V> {
        let this = self.column("value", ColumnKind::Any, move |value, column, decoded| {
            decoded.set(column, of(value).value());
        });
        this.input(name, function)
    }

    fn of_number<N: Number + 'static, V: Shown>(
        self,
        name: &str,
        function: Function,
        number: impl Fn(&T) -> N + Send + Sync + 'static,
    ) -> Results<T, V> {
        let this = self.column("value", ColumnKind::Any, move |value, column, decoded| {
            let number: Value<'static> = number(value).number();
            decoded.set(column, number);
        });
        this.input(name, function)
    }

    /// A result of the column added last.
    fn input<V: Shown>(mut self, name: &str, function: Function) -> Results<T, V> {
        self.inputs.push(self.stream.columns.len() - 1);
        let field = self.inputs.len() - 1;
        self.result(name, function, field)
    }

    fn result<V: Shown>(mut self, name: &str, function: Function, field: usize) -> Results<T, V> {
        self.spec.aggregates.push(Aggregate { name: name.into(), function, field });
        Results::new(self)
    }

    fn column(
        self,
        name: &str,
        kind: ColumnKind,
        put: impl Fn(&T, usize, &mut crate::decode::Decoded) + Send + Sync + 'static,
    ) -> Self {
        let (stream, _) = self.stream.column(name, kind, put);
        WindowStream { stream, ..self }
    }
}
