//! Questions about windows and keys. They change nothing.

use granary_core::Timestamp;

use super::{KeyStats, Operator, Peek};
use crate::pane::{Pane, Scene};
use crate::row::{Op, Reason, State};
use crate::rules::{Layout, Rules};
use crate::slice::WHOLE;
use crate::value::{Values, ValuesOf};

impl Operator {
    /// The present row of the window of `key` and `by` that starts at `start` (and ends at `end`, for cumulating
    /// windows; without it the longest). Appends to `cells` and answers `None` when cells are missing.
    pub fn peek(
        &mut self,
        key: &[u8],
        by: &[u8],
        start: Timestamp,
        end: Option<Timestamp>,
        cells: &mut Vec<Vec<u8>>,
    ) -> Option<Peek<'_>> {
        let slice_start = if self.rules.layout.is_aligned() { start.ms() } else { WHOLE };
        let place = self.missing_for_question(key, Some(slice_start), cells)?;
        let w = self.w(place);
        let Operator { rules, keys, pool, .. } = self;
        let rules = &*rules;
        let key = keys.get_mut(place);
        if let Ok(at) = key.slice_at(slice_start) {
            key.slices[at].unpack(rules, pool);
        }
        let key = &*key;
        let panes = key.slice_at(slice_start).map_or(&[][..], |at| &key.slices[at].panes);
        let fits = |pane: &&Pane| {
            pane.by.bytes() == by
                && (rules.layout == Layout::Global || pane.start == start.ms())
                && end.is_none_or(|end| pane.end == end.ms())
        };
        let pane = panes.iter().filter(fits).max_by_key(|pane| pane.end);
        let end = pane.map(|pane| pane.end).or(end.map(Timestamp::ms));
        let state = state(rules, w, end.unwrap_or_else(|| usual_end(rules, start.ms())));
        let row = pane.map(|pane| {
            let scene = Scene { rules, key: key.name.bytes(), w, now: self.root.now };
            let reason = match state {
                _ if pane.revision > 0 => pane.reason, // as in the row that was published last
                State::Open => Reason::Early,
                State::Due => Reason::OnTime,
                State::Closed => Reason::Final,
            };
            let values = Values(ValuesOf::Live(&rules.plan, &pane.accumulators));
            let mut row = pane.row(&scene, reason, rules.retracting.then_some(Op::Add), values);
            row.revision = row.revision.saturating_sub(1);
            row
        });
        Some(Peek { state, watermark: Timestamp(w), row })
    }

    /// What is known of a key; `None` when cells are missing, or (with nothing appended) the key was never seen.
    pub fn key_stats(&mut self, key: &[u8], cells: &mut Vec<Vec<u8>>) -> Option<KeyStats> {
        let place = self.missing_for_question(key, None, cells)?;
        let w = self.w(place);
        let key = self.keys.get(place);
        let is_seen = key.last_event != i64::MIN || key.clock != i64::MIN;
        let open_in = |slice: &crate::slice::Slice| {
            if slice.panes.is_empty() {
                slice.windows()
            } else {
                slice.panes.iter().filter(|pane| w < self.rules.close(pane.end)).count() as u64
            }
        };
        is_seen.then(|| KeyStats {
            last_event: Timestamp(key.last_event),
            clock: Timestamp(w),
            events: key.events,
            duplicates: key.duplicates,
            late: key.late,
            open_windows: key.slices.iter().map(open_in).sum(),
        })
    }
}

fn state(rules: &Rules, w: i64, end: i64) -> State {
    if w >= rules.close(end) {
        State::Closed
    } else if w >= rules.due(end) {
        State::Due
    } else {
        State::Open
    }
}

/// The end of a window that is not there.
fn usual_end(rules: &Rules, start: i64) -> i64 {
    match rules.layout {
        Layout::Hopping { size, .. } | Layout::Cumulate { size, .. } => start.saturating_add(size),
        Layout::Session { gap, .. } => start.saturating_add(gap),
        Layout::Sliding { difference } => start.saturating_add(difference).saturating_add(1),
        Layout::Count { .. } | Layout::Global => i64::MAX,
    }
}
