//! The passing of time: watermarks, silence, the wall clock, the end of the input.

use std::cmp::Reverse;

use granary_core::Span;

use super::Operator;
use crate::clock::Partitions;
use crate::key::{NOT_LISTED, Stage};
use crate::row::Output;
use crate::rules::length;
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

    /// Moves one key's watermark and publishes what that makes due.
    pub(super) fn advance_key(&mut self, place: u32, to: i64, out: &mut impl Output) {
        let key = self.keys.get_mut(place);
        if to <= key.clock {
            return;
        }
        key.clock = to;
        if key.next <= to {
            self.fire(place, to, out);
        }
    }

    pub(super) fn fire(&mut self, place: u32, w: i64, out: &mut impl Output) {
        let Operator { rules, keys, pool, windows, root, .. } = self;
        keys.get_mut(place).fire(place, &mut Stage { rules, pool, windows, w, now: root.now, out });
    }

    /// A silent key: its clock moves to where its last result falls due.
    pub(super) fn close_idle(&mut self, name: &[u8], out: &mut impl Output) {
        if !self.rules.per_key {
            return;
        }
        let place = self.place(name);
        let rules = &self.rules;
        let panes = self.keys.get(place).slices.iter().flat_map(|slice| &slice.panes);
        let to = panes.filter(|pane| pane.next(rules).1).map(|pane| match rules.emit {
            Emit::Final if rules.closes() => rules.last_call(pane.end),
            _ => rules.due(pane.end),
        });
        if let Some(to) = to.max() {
            self.advance_key(place, to, out);
        }
        self.settle(place);
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
        let w = self.stream_w();
        let mut due = Vec::new();
        while let Some(Reverse((at, place))) = self.queue.peek().copied()
            && at <= w
        {
            self.queue.pop();
            let key = self.keys.get_mut(place);
            if !key.flags.used || key.mark != at {
                continue;
            }
            key.mark = i64::MAX;
            if key.next <= w {
                due.push(place);
            } else {
                self.enqueue(place);
            }
        }
        self.keys.sort(&mut due);
        for place in due {
            self.fire(place, w, out);
            self.settle(place);
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

    pub(super) fn end(&mut self, out: &mut impl Output) {
        if self.rules.processing || self.root.ended {
            return;
        }
        self.root.ended = true;
        self.root.dirty = true;
        self.root.partitions.end();
        let mut listed: Vec<u32> = self.index.members().collect();
        self.keys.sort(&mut listed);
        for place in listed {
            self.fire(place, i64::MAX, out);
            self.settle(place);
        }
    }
}
