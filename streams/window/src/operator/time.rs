//! The passing of time: watermarks, silence, the wall clock, the end of the input.

use std::cmp::Reverse;

use granary_core::Span;

use super::Operator;
use crate::clock::Partitions;
use crate::key::{Key, NOT_LISTED, Stage};
use crate::row::Output;
use crate::rules::{Rules, length};
use crate::spec::{Early, Emit};

impl Operator {
    /// The slot stood so long at the end of all its inputs: keys are silent for so much longer. Time in which the slot
    /// was behind, paused or not owned does not count.
    pub fn pass_silence(&mut self, stood: Span) {
        self.silence = self.silence.saturating_add(length(stood));
    }

    /// Appends up to `limit` keys with a result to come that were silent for `idle_after`: apply [`crate::Input::CloseIdle`]
    /// to each. A key is named once; it is named again when it was silent anew after a further event. Needs
    /// [`Operator::missing_index`] to have nothing missing, else keys not yet seen are not named yet.
    pub fn idle_keys(&mut self, limit: usize, keys: &mut Vec<Box<[u8]>>) {
        let Some(idle_after) = self.rules.idle_after else { return };
        let before = self.silence.saturating_sub_unsigned(idle_after);
        let mut named = 0;
        while named < limit
            && let Some(Reverse((heard, place))) = self.silent.peek().copied()
            && heard <= before
        {
            self.silent.pop();
            let key = self.keys.get_mut(place);
            if !key.flags.used || !key.flags.queued {
                continue;
            }
            if key.mark > before {
                self.silent.push(Reverse((key.mark, place)));
                continue;
            }
            key.flags.queued = false;
            if key.listed_at != NOT_LISTED {
                keys.push(key.name.bytes().into());
                named += 1;
            }
        }
    }

    /// Moves one key's watermark and publishes what that makes due, a portion of it at most.
    pub(super) fn advance_key(&mut self, place: u32, to: i64, out: &mut impl Output) {
        let key = self.keys.get_mut(place);
        if to <= key.clock {
            return;
        }
        key.clock = to;
        let mut left = self.portion;
        if key.next <= to && !self.fire(place, to, &mut left, out) {
            self.close_key_on(place);
        }
    }

    /// Publishes what is due of a key, `left` windows at most; true when nothing more is due.
    pub(super) fn fire(&mut self, place: u32, w: i64, left: &mut usize, out: &mut impl Output) -> bool {
        let Operator { rules, keys, pool, windows, root, .. } = self;
        let mut stage = Stage { rules, pool, windows, w, now: root.now, out };
        keys.get_mut(place).fire(place, left, &mut stage)
    }

    /// A silent key: its clock moves to where its last result falls due.
    pub(super) fn close_idle(&mut self, name: &[u8], out: &mut impl Output) {
        if !self.rules.per_key {
            return;
        }
        let place = self.place(name);
        if let Some(to) = last_due(&self.rules, self.keys.get(place)) {
            self.advance_key(place, to, out);
        }
        self.settle(place);
    }

    /// Whether the stream has been silent for `idle_after` since its last event, and was not closed since. Needs
    /// [`Operator::missing_index`] to have nothing missing.
    pub fn is_idle_stream(&self) -> bool {
        let Some(idle_after) = self.rules.stream_idle_after else { return false };
        self.silence.saturating_sub(self.heard) >= idle_after && self.index.members().next().is_some()
    }

    /// A silent stream: its watermark moves to where the last result falls due.
    pub(super) fn close_idle_stream(&mut self, out: &mut impl Output) {
        self.heard = i64::MAX;
        let due = self.index.members().filter_map(|place| last_due(&self.rules, self.keys.get(place)));
        if let Some(to) = due.max() {
            self.change_stream(|partitions| partitions.observe_all(to), out);
        }
    }

    /// Changes the partitions' watermarks and publishes what that makes due.
    pub(super) fn change_stream(&mut self, change: impl FnOnce(&mut Partitions), out: &mut impl Output) {
        if self.rules.per_key || self.rules.processing {
            return;
        }
        let before = self.root.partitions.watermark();
        change(&mut self.root.partitions);
        self.root.dirty = true;
        if self.root.partitions.watermark() > before {
            self.advance_stream(out);
        }
    }

    /// The watermark of all keys has moved.
    pub(super) fn advance_stream(&mut self, out: &mut impl Output) {
        self.collect_due();
        if self.due.len() <= self.portion / 16 {
            self.close_portion(out);
        } else {
            self.note_closing(); // a mass: what brought it shall not last long itself
        }
    }

    /// With a watermark per stream: queues a key for its next change, unless it is queued for as early.
    pub(super) fn enqueue(&mut self, place: u32) {
        let key = self.keys.get_mut(place);
        if key.next < key.mark {
            key.mark = key.next;
            self.queue.push(Reverse((key.next, place)));
        }
    }

    pub(super) fn processing_time(&mut self, now: i64, out: &mut impl Output) {
        let moved = now > self.root.now;
        self.root.now = now.max(self.root.now);
        self.root.dirty = true;
        if moved && self.rules.processing {
            self.advance_stream(out);
        }
        if !matches!(self.rules.early, Some(Early::ProcessingTimeDelay(_))) {
            return;
        }
        if self.is_closing() {
            self.early_after_closing();
        } else {
            self.early_results(out);
        }
    }

    /// Early results that waited long enough for the wall clock.
    pub(super) fn early_results(&mut self, out: &mut impl Output) {
        let mut listed: Vec<u32> = self.index.members().collect();
        self.keys.sort(&mut listed);
        for place in listed {
            let w = self.w(place);
            let Operator { rules, keys, pool, windows, root, .. } = self;
            let mut stage = Stage { rules, pool, windows, w, now: root.now, out };
            if keys.get_mut(place).after_delay(&mut stage) {
                self.settle(place);
            }
        }
    }

    pub(super) fn end(&mut self) {
        if self.rules.processing || self.root.ended {
            return;
        }
        self.root.ended = true;
        self.root.dirty = true;
        self.root.partitions.end();
        self.collect_due();
        self.note_closing();
    }
}

/// The watermark at which the last result of a key falls due.
fn last_due(rules: &Rules, key: &Key) -> Option<i64> {
    let panes = key.slices.iter().flat_map(|slice| &slice.panes);
    let due = panes.filter(|pane| pane.next(rules).1).map(|pane| match rules.emit {
        Emit::Final if rules.closes() => rules.last_call(pane.end),
        _ => rules.due(pane.end),
    });
    due.max()
}
