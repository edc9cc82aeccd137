//! Events of windows whose bounds depend on other events: sessions, sliding and count windows.

use granary_core::Timestamp;

use crate::aggregate::Sample;
use crate::key::{Arrival, Key, Stage, open_slice};
use crate::pane::{Pane, Scene};
use crate::row::{Outcome, Output, Reason, Row};
use crate::slice::{Kept, Log, WHOLE};
use crate::value::{Datum, Value, Values, ValuesOf};

impl Key {
    /// An event joins every open session it meets, and these with each other.
    pub(crate) fn take_session<O: Output>(
        &mut self,
        gap: i64,
        inclusive: bool,
        arrival: &Arrival<'_>,
        stage: &mut Stage<'_, O>,
    ) -> Outcome {
        let Stage { rules, w, now, .. } = *stage;
        let time = arrival.sample.time;
        let (start, end) = (time, time.saturating_add(arrival.gap.unwrap_or(gap)));
        let meets = |pane: &Pane| {
            let touch = if inclusive {
                pane.start <= end && start <= pane.end
            } else {
                pane.start < end && start < pane.end
            };
            touch && pane.by.bytes() == arrival.by && w < rules.close(pane.end)
        };
        let panes = self.slice_at(WHOLE).map_or(&[][..], |at| &self.slices[at].panes);
        let (mut from, mut to, mut met, mut is_copy) = (start, end, 0, false);
        let ids_of_panes = arrival.id.filter(|_| rules.dedup_pane);
        for pane in panes.iter().filter(|pane| meets(pane)) {
            from = from.min(pane.start);
            to = to.max(pane.end);
            met += 1;
            is_copy |= ids_of_panes.is_some_and(|id| pane.ids.contains(&id));
        }
        if w >= rules.close(to) {
            return Outcome::Late;
        }
        if is_copy || self.remembers(rules, w, arrival.id) {
            return Outcome::Duplicate;
        }
        self.remember(rules, stage.pool, time, arrival.id);
        let at = open_slice(&mut self.slices, &mut self.newest, stage.pool, WHOLE);
        let slice = &mut self.slices[at];
        (slice.dirty, slice.touched) = (true, true);
        let scene = Scene { rules, key: self.name.bytes(), w, now };
        let kept_bounds = |pane: &Pane| met == 1 && (pane.start, pane.end) == (from, to);
        let i = match slice.panes.iter().position(meets) {
            Some(i) if kept_bounds(&slice.panes[i]) => i,
            first => {
                let replaced = slice.panes.iter_mut().filter(|pane| meets(pane));
                replaced.for_each(|pane| pane.withdraw(&scene, stage.out));
                let mut whole = match first {
                    Some(i) => slice.panes.remove(i),
                    None => stage.pool.open(rules, arrival.by, start, end),
                };
                slice.panes.extract_if(.., |pane| meets(pane)).for_each(|part| {
                    stage.pool.less(part.memory_bytes());
                    whole.merge(rules, part);
                });
                (whole.start, whole.end, whole.fired) = (from, to, false);
                slice.push(rules, whole)
            }
        };
        let pane = &mut slice.panes[i];
        let before = pane.memory_bytes();
        pane.accumulate(&scene, &arrival.sample, ids_of_panes, now);
        pane.after_event(&scene, stage.out);
        stage.pool.changed(before, pane.memory_bytes());
        slice.refresh(rules);
        self.next = self.next.min(slice.next);
        Outcome::Accepted
    }

    /// An event enters the windows that hold its time, and makes those that it is the anchor of or that it fills.
    pub(crate) fn take_sliding<O: Output>(
        &mut self,
        difference: i64,
        arrival: &Arrival<'_>,
        stage: &mut Stage<'_, O>,
    ) -> Outcome {
        let Stage { rules, w, now, .. } = *stage;
        let time = arrival.sample.time;
        let length = difference.saturating_add(1);
        if w >= rules.close(time.saturating_add(length)) {
            return Outcome::Late;
        }
        let at = open_slice(&mut self.slices, &mut self.newest, stage.pool, WHOLE);
        let slice = &mut self.slices[at];
        (slice.dirty, slice.touched) = (true, true);
        let scene = Scene { rules, key: self.name.bytes(), w, now };
        let is_open = |end: i64| w < rules.close(end);
        for pane in slice.panes.iter_mut().filter(|pane| {
            pane.start <= time && time < pane.end && pane.by.bytes() == arrival.by && is_open(pane.end)
        }) {
            let before = pane.memory_bytes();
            pane.accumulate(&scene, &arrival.sample, None, now);
            pane.after_event(&scene, stage.out);
            stage.pool.changed(before, pane.memory_bytes());
        }
        let kept = Kept::new(time, arrival.sample.arrival, now, arrival.sample.values);
        stage.pool.bytes += kept.memory_bytes();
        let log = slice.log(arrival.by);
        log.events.insert(log.events.partition_point(|held| held.time <= time), kept);

        let starts = &mut *stage.windows;
        starts.clear();
        starts.push((time.saturating_sub(difference), 0));
        let from = log.events.partition_point(|held| held.time < time.saturating_sub(length));
        let anchors = log.events.range(from..).take_while(|held| held.time <= time);
        starts.extend(anchors.map(|held| (held.time.saturating_add(1), 0)));
        for (start, end) in starts.iter_mut() {
            *end = start.saturating_add(length);
        }
        starts.sort_unstable();
        starts.dedup();
        starts.retain(|(start, end)| {
            is_open(*end)
                && !slice.panes.iter().any(|pane| pane.start == *start && pane.by.bytes() == arrival.by)
        });
        for &(start, end) in starts.iter() {
            let mut pane = stage.pool.open(rules, arrival.by, start, end);
            let before = pane.memory_bytes();
            if fill(&mut pane, slice.log(arrival.by), &scene) {
                pane.after_event(&scene, stage.out);
                stage.pool.changed(before, pane.memory_bytes());
                slice.push(rules, pane);
            } else {
                stage.pool.recycle(pane);
            }
        }
        slice.refresh(rules);
        self.next = self.next.min(slice.next);
        if is_open(time.saturating_add(1)) { Outcome::Accepted } else { Outcome::PartiallyLate }
    }

    /// After every `slide`-th event there is a result over the last `size`.
    pub(crate) fn take_counted<O: Output>(
        &mut self,
        size: u32,
        slide: u32,
        arrival: &Arrival<'_>,
        stage: &mut Stage<'_, O>,
    ) -> Outcome {
        let Stage { rules, w, now, .. } = *stage;
        let at = open_slice(&mut self.slices, &mut self.newest, stage.pool, WHOLE);
        let slice = &mut self.slices[at];
        (slice.dirty, slice.touched) = (true, true);
        let log = slice.log(arrival.by);
        let kept = Kept::new(arrival.sample.time, arrival.sample.arrival, now, arrival.sample.values);
        stage.pool.bytes += kept.memory_bytes();
        log.events.push_back(kept);
        if log.events.len() > size as usize {
            stage.pool.less(log.events.pop_front().map_or(0, |kept| kept.memory_bytes()));
        }
        log.since += 1;
        if log.since < slide {
            return Outcome::Accepted;
        }
        log.since = 0;
        let scene = Scene { rules, key: self.name.bytes(), w, now };
        let mut pane = stage.pool.open(rules, arrival.by, i64::MIN, i64::MAX);
        let before = pane.memory_bytes();
        fill(&mut pane, log, &scene);
        stage.out.result(Row {
            key: scene.key,
            by: arrival.by,
            start: Timestamp::MIN,
            end: Timestamp::MAX,
            reason: Reason::Final,
            op: None,
            revision: log.revision,
            values: Values(ValuesOf::Live(&rules.plan, &pane.accumulators)),
        });
        stage.pool.changed(before, pane.memory_bytes());
        stage.pool.recycle(pane);
        log.revision = log.revision.saturating_add(1);
        Outcome::Accepted
    }
}

/// Puts the kept events within the pane's bounds into it, in the order of their arrival; false when there is none.
fn fill(pane: &mut Pane, log: &Log, scene: &Scene<'_>) -> bool {
    let mut inside: Vec<&Kept> = log
        .events
        .iter()
        .filter(|kept| pane.start <= kept.time && (kept.time < pane.end || pane.end == i64::MAX))
        .collect();
    inside.sort_unstable_by_key(|kept| kept.arrival);
    for kept in &inside {
        let values: Vec<Value<'_>> = kept.values.iter().map(Datum::value).collect();
        let sample = Sample { values: &values, time: kept.time, arrival: kept.arrival };
        pane.accumulate(scene, &sample, None, kept.clock);
    }
    !inside.is_empty()
}
