//! A spec made ready to run: lengths as plain numbers, accumulators planned, combinations resolved.
//!
//! Inside the operator times and lengths are `i64` milliseconds; all arithmetic on them saturates.

use granary_core::Span;

use crate::aggregate::Plan;
use crate::slice::WHOLE;
use crate::spec::{Accumulation, Early, Emit, Horizon, Lateness, Per, Spec, Time, Window};

/// The spec as the operator runs it.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) layout: Layout,
    pub(crate) plan: Plan,
    pub(crate) emit: Emit,
    pub(crate) discarding: bool,
    pub(crate) retracting: bool,
    pub(crate) early: Option<Early>,
    /// Windows remember ids.
    pub(crate) dedup_pane: bool,
    /// Keys remember ids, for so long.
    pub(crate) dedup_horizon: Option<i64>,
    /// `None`: for ever.
    lateness: Option<i64>,
    /// A window is due when `W >= end - due_before_end`.
    due_before_end: i64,
    pub(crate) keep: i64,
    /// After an event the watermark is at least its time less this.
    behind: Option<i64>,
    pub(crate) per_key: bool,
    pub(crate) partitions: u32,
    pub(crate) processing: bool,
    /// Sessions take a published row back when they become another.
    pub(crate) withdraws: bool,
    /// All open windows stay in memory: one step can make windows of every key due.
    pub(crate) resident: bool,
    pub(crate) idle_after: Option<u64>,
    /// The same, with a watermark per stream.
    pub(crate) stream_idle_after: Option<i64>,
    pub(crate) future_guard: Option<Span>,
}

/// How windows lie in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    Hopping { size: i64, slide: i64, offset: i64 },
    Cumulate { size: i64, step: i64, offset: i64 },
    Session { gap: i64, inclusive: bool, per_event: bool },
    Sliding { difference: i64 },
    Count { size: u32, slide: u32 },
    Global,
}

impl Layout {
    /// Whether windows start at fixed times: then each start has a cell of its own, else each key has one for all.
    pub(crate) fn is_aligned(self) -> bool {
        matches!(self, Layout::Hopping { .. } | Layout::Cumulate { .. })
    }

    /// Whether the bounds of a window never change.
    pub(crate) fn has_fixed_ends(self) -> bool {
        self.is_aligned() || self == Layout::Global
    }

    /// Whether all windows of one start end together.
    pub(crate) fn ends_together(self) -> bool {
        matches!(self, Layout::Hopping { .. })
    }
}

/// A length as a signed number.
pub(crate) fn length(span: Span) -> i64 {
    i64::try_from(span.ms()).unwrap_or(i64::MAX)
}

/// The allowed lateness as a signed number; `None`: for ever.
pub(crate) fn lateness_ms(allowed: Lateness) -> Option<i64> {
    match allowed {
        Lateness::Span(span) => Some(length(span)),
        Lateness::Forever => None,
    }
}

impl Rules {
    pub(crate) fn new(spec: &Spec) -> Rules {
        let layout = match spec.window {
            Window::Tumbling { size, offset } => {
                Layout::Hopping { size: length(size), slide: length(size), offset }
            }
            Window::Hopping { size, slide, offset } => {
                Layout::Hopping { size: length(size), slide: length(slide), offset }
            }
            Window::Cumulate { size, step, offset } => {
                Layout::Cumulate { size: length(size), step: length(step), offset }
            }
            Window::Session { gap, inclusive, per_event } => {
                Layout::Session { gap: length(gap), inclusive, per_event }
            }
            Window::Sliding { difference } => Layout::Sliding { difference: length(difference) },
            Window::Count { size, slide } => Layout::Count { size, slide },
            Window::Global => Layout::Global,
        };
        let processing = spec.time == Time::Processing;
        let global = layout == Layout::Global;
        let lateness = if processing || global { Some(0) } else { lateness_ms(spec.allowed_lateness) };
        // Time never takes anything from count windows.
        let lateness = lateness.filter(|_| !matches!(layout, Layout::Count { .. }));
        let (per_key, partitions) = match spec.watermark.per {
            Per::Key => (!processing, 1),
            Per::Stream { partitions } => (false, partitions),
        };
        let retracting = spec.accumulation == Accumulation::Retracting && !global;
        let inclusive = matches!(layout, Layout::Session { inclusive: true, .. }) && !processing;
        let delayed = matches!(spec.early, Some(Early::ProcessingTimeDelay(_)));
        let horizon = spec.dedup.map(|dedup| dedup.horizon);
        Rules {
            layout,
            plan: Plan::new(&spec.aggregates),
            emit: if global { Emit::Final } else { spec.emit },
            discarding: spec.accumulation == Accumulation::Discarding && !global,
            retracting,
            early: spec.early,
            dedup_pane: horizon == Some(Horizon::Pane),
            dedup_horizon: match horizon {
                Some(Horizon::Span(span)) => Some(length(span)),
                _ => None,
            },
            lateness,
            due_before_end: i64::from(!inclusive),
            keep: length(spec.keep),
            behind: spec.watermark.out_of_orderness.map(|bound| length(bound).saturating_add(1)),
            per_key,
            partitions,
            processing,
            withdraws: spec.withdraw || retracting || spec.emit == Emit::EveryUpdate,
            resident: !per_key || delayed,
            idle_after: spec.watermark.idle_after.filter(|_| per_key && !global).map(Span::ms),
            stream_idle_after: spec
                .watermark
                .idle_after
                .filter(|_| !per_key && !processing && !global)
                .map(length),
            future_guard: spec.watermark.future_guard,
        }
    }

    /// Where an event moves the watermark.
    pub(crate) fn watermark_after(&self, time: i64) -> Option<i64> {
        self.behind.map(|behind| time.saturating_sub(behind))
    }

    /// Windows close, at some time before the end of the input.
    pub(crate) fn closes(&self) -> bool {
        self.lateness.is_some()
    }

    /// The watermark at which a window is due.
    pub(crate) fn due(&self, end: i64) -> i64 {
        end.saturating_sub(self.due_before_end)
    }

    /// The watermark at which a window closes.
    pub(crate) fn close(&self, end: i64) -> i64 {
        self.lateness.map_or(i64::MAX, |lateness| self.due(end).saturating_add(lateness))
    }

    /// The watermark at which the one result of `emit: final` comes. With lateness for ever it is one less than the
    /// largest time, so that "never" stays apart from "at the end of the input".
    pub(crate) fn last_call(&self, end: i64) -> i64 {
        self.close(end).min(i64::MAX - 1)
    }

    /// The watermark at which a window leaves the state.
    pub(crate) fn retire(&self, end: i64) -> i64 {
        self.close(end).saturating_add(self.keep)
    }

    /// Appends the windows of an event as start and end, in the order of their ends.
    pub(crate) fn windows(&self, time: i64, windows: &mut Vec<(i64, i64)>) {
        match self.layout {
            Layout::Hopping { size, slide, offset } => {
                let since = floor_rest(time, offset, slide);
                if size == slide {
                    windows.push((time.saturating_sub(since), time.saturating_add(size - since)));
                    return;
                }
                if since >= size {
                    return;
                }
                for n in (0..=(size - 1 - since) / slide).rev() {
                    let before = since + n * slide;
                    windows.push((time.saturating_sub(before), time.saturating_add(size - before)));
                }
            }
            Layout::Cumulate { size, step, offset } => {
                let since = floor_rest(time, offset, size);
                let start = time.saturating_sub(since);
                let mut length = (since / step).saturating_add(1).saturating_mul(step);
                while length < size {
                    windows.push((start, time.saturating_add(length - since)));
                    length = length.saturating_add(step);
                }
                windows.push((start, time.saturating_add(size - since)));
            }
            Layout::Global => windows.push((WHOLE, i64::MAX)),
            Layout::Session { .. } | Layout::Sliding { .. } | Layout::Count { .. } => {}
        }
    }
}

/// How far `time` lies after the last `offset + n * step`: from 0 to `step - 1`.
pub(crate) fn floor_rest(time: i64, offset: i64, step: i64) -> i64 {
    match time.checked_sub(offset) {
        Some(distance) => distance.rem_euclid(step),
        None => {
            let distance = i128::from(time) - i128::from(offset);
            distance.rem_euclid(i128::from(step)) as i64
        }
    }
}

/// The first multiple of `every` greater than `time`.
pub(crate) fn next_multiple(time: i64, every: i64) -> i64 {
    time.div_euclid(every).saturating_add(1).saturating_mul(every)
}

#[cfg(test)]
mod tests {
    use super::*;
    use granary_core::time::millis;

    fn windows(window: Window, time: i64) -> Vec<(i64, i64)> {
        let mut found = Vec::new();
        Rules::new(&Spec::new(window, Vec::new())).windows(time, &mut found);
        found
    }

    #[test]
    fn windows_lie_where_the_page_says() {
        let tumbling = Window::Tumbling { size: millis(4000), offset: 1500 };
        assert_eq!(windows(tumbling, -2501), [(-6500, -2500)]);
        assert_eq!(windows(tumbling, -2500), [(-2500, 1500)]);
        let hopping = Window::Hopping { size: millis(9), slide: millis(3), offset: 0 };
        assert_eq!(windows(hopping, 2), [(-6, 3), (-3, 6), (0, 9)]);
        let gaps = Window::Hopping { size: millis(3), slide: millis(10), offset: 0 };
        assert_eq!(windows(gaps, 12), [(10, 13)]);
        assert!(windows(gaps, 13).is_empty());
        let cumulate = Window::Cumulate { size: millis(10), step: millis(4), offset: 0 };
        assert_eq!(windows(cumulate, 5), [(0, 8), (0, 10)]);
        assert_eq!(windows(cumulate, 9), [(0, 10)]);
    }

    #[test]
    fn times_at_the_limits_saturate() {
        let tumbling = Window::Tumbling { size: millis(1000), offset: 500 };
        assert_eq!(windows(tumbling, i64::MAX), [(i64::MAX - 307, i64::MAX)]);
        assert_eq!(windows(tumbling, i64::MIN)[0].0, i64::MIN);
        assert_eq!(next_multiple(i64::MAX, 7), i64::MAX);
        assert_eq!(next_multiple(-1, 5), 0);
        assert_eq!(next_multiple(5, 5), 10);
    }
}
