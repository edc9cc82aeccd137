//! What the passing of time does to a key: results fall due, windows close.

use crate::key::{Key, Stage};
use crate::pane::Scene;
use crate::pool::Pool;
use crate::row::Output;
use crate::rules::Layout;
use crate::slice::{Kept, Slice, forget_at};

impl Key {
    /// Time has passed: what is due is published, what is closed leaves. It stops where `left` windows are done with,
    /// though never inside a slice; true when nothing more is due.
    pub(crate) fn fire<O: Output>(&mut self, place: u32, left: &mut usize, stage: &mut Stage<'_, O>) -> bool {
        if stage.rules.layout.ends_together() {
            return self.fire_in_order(place, left, stage);
        }
        self.next = i64::MAX;
        let mut at = 0;
        while let Some(slice) = self.slices.get(at) {
            if slice.next <= stage.w {
                if *left == 0 {
                    self.next = slice.next;
                    return false;
                }
                if self.fire_at(at, place, left, stage) {
                    continue;
                }
            }
            self.next = self.next.min(self.slices[at].next);
            at += 1;
        }
        true
    }

    /// As `fire`, where all windows of a slice end together: then slices close from the front, and those with a result
    /// to come are at the back (an entry that only says that there is no cell may lie among them). Those in between wait
    /// to be closed and are not looked at, however many they are.
    fn fire_in_order<O: Output>(&mut self, place: u32, left: &mut usize, stage: &mut Stage<'_, O>) -> bool {
        while self.slices.front().is_some_and(|slice| slice.next <= stage.w && !slice.pending) {
            if *left == 0 {
                self.next = self.slices[0].next;
                return false;
            }
            if !self.fire_at(0, place, left, stage) {
                break;
            }
        }
        self.next = self.slices.front().map_or(i64::MAX, |slice| slice.next);
        let mut at = self.slices.len();
        let is_behind = |slice: &Slice| slice.pending || (slice.loaded && slice.is_empty());
        while at > 0 && is_behind(&self.slices[at - 1]) {
            at -= 1;
        }
        while let Some(slice) = self.slices.get(at) {
            if slice.next <= stage.w {
                if *left == 0 {
                    self.next = self.next.min(slice.next);
                    return false;
                }
                if self.fire_at(at, place, left, stage) {
                    continue;
                }
            }
            let slice = &mut self.slices[at];
            slice.pack(stage.rules, stage.pool);
            self.next = self.next.min(slice.next);
            at += 1;
        }
        if let Some(front) = self.slices.front() {
            self.next = self.next.min(front.next);
        }
        true
    }

    /// Fires one slice; true when it is gone.
    fn fire_at<O: Output>(
        &mut self,
        at: usize,
        place: u32,
        left: &mut usize,
        stage: &mut Stage<'_, O>,
    ) -> bool {
        let Stage { rules, w, now, .. } = *stage;
        let slice = &mut self.slices[at];
        *left = left.saturating_sub(slice.panes.len().max(1));
        // What is packed or not in memory has no result to come (it would have been missing): it only leaves.
        if slice.is_packed() {
            stage.pool.less(slice.memory_bytes() - size_of::<Slice>());
        } else if slice.loaded {
            let scene = Scene { rules, key: self.name.bytes(), w, now };
            fire_slice(slice, &scene, stage.pool, stage.out);
            if !slice.is_empty() {
                return false;
            }
        } else {
            self.absent -= 1;
        }
        if slice.stored {
            stage.pool.deleted.push((place, slice.start));
        }
        stage.pool.less(size_of::<Slice>());
        if let Some(mut gone) = self.slices.remove(at) {
            stage.pool.keep_list(std::mem::take(&mut gone.panes));
        }
        true
    }

    /// The wall clock has passed: early results that waited long enough.
    pub(crate) fn after_delay<O: Output>(&mut self, stage: &mut Stage<'_, O>) -> bool {
        let Stage { rules, w, now, .. } = *stage;
        let scene = Scene { rules, key: self.name.bytes(), w, now };
        let mut changed = false;
        for slice in &mut self.slices {
            for pane in &mut slice.panes {
                if pane.after_delay(&scene, stage.out) {
                    slice.dirty = true;
                    changed = true;
                }
            }
        }
        changed
    }
}

fn fire_slice(slice: &mut Slice, scene: &Scene<'_>, pool: &mut Pool, out: &mut impl Output) {
    let rules = scene.rules;
    for pane in &mut slice.panes {
        let before = pane.heap_bytes();
        pane.after_time(scene, out);
        pool.changed(before, pane.heap_bytes());
    }
    slice.remove(rules, |pane| scene.w >= rules.retire(pane.end), |pane| pool.recycle(pane));
    if let Layout::Sliding { difference } = rules.layout {
        let gone = |kept: &Kept| scene.w >= forget_at(rules, kept.time, difference);
        slice.forget(gone, |kept| pool.less(kept.memory_bytes()));
    }
    slice.dirty = true;
    slice.refresh(rules);
}
