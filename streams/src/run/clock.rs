//! The passing of time in a slot: silent keys, early results that wait for the wall clock, the end of the input.

use granary_cluster::{Applied, Cause, Effects, Failure};
use granary_core::{Span, Timestamp};
use granary_window::{Early, Input, Operator};

use super::emit::{Causes, Emit};
use super::prepared::Prepared;
use super::slot::Slot;

/// Keys closed by one tick at most: the others follow with the next one.
const IDLE_KEYS_MAX: usize = 4_096;

impl Slot {
    /// The wall clock: silent keys are closed, early results that wait for it come.
    pub fn tick(
        &mut self,
        prepared: &Prepared,
        now: Timestamp,
        cause: Cause,
        effects: &mut Effects,
    ) -> Result<Applied, Failure> {
        let missing = effects.missing.len();
        let wall_clock = Input::ProcessingTime(now);
        for operator in &mut self.operators {
            if operator.spec().watermark.idle_after.is_some() {
                operator.missing_index(&mut effects.missing);
            }
            if waits_for_the_wall_clock(operator) {
                operator.missing(&wall_clock, &mut effects.missing);
            }
        }
        if effects.missing.len() > missing {
            return Ok(Applied::Missing);
        }
        let stood = self.ticked_at.map_or(Span::ZERO, |before| now.since(before));
        self.ticked_at = Some(now);
        for (operator, idle) in self.operators.iter_mut().zip(&mut self.idle) {
            if operator.spec().watermark.idle_after.is_some() {
                operator.pass_silence(stood);
                // An operator names a key once: those of a tick that lacked cells are still here.
                operator.idle_keys(IDLE_KEYS_MAX.saturating_sub(idle.len()), idle);
            }
            for key in idle {
                operator.missing(&Input::CloseIdle { key }, &mut effects.missing);
            }
        }
        if effects.missing.len() > missing {
            return Ok(Applied::Missing);
        }
        let (mut causes, mut failed) = (Causes(cause), None);
        for (i, operator) in self.operators.iter_mut().enumerate() {
            let window = &prepared.windows[i];
            let mut emit = Emit {
                prepared,
                window,
                tally: &mut self.tally,
                causes: &mut causes,
                effects,
                time: now,
                failed: &mut failed,
            };
            if waits_for_the_wall_clock(operator) {
                operator.apply(&wall_clock, &mut emit);
            }
            for key in self.idle[i].drain(..) {
                operator.apply(&Input::CloseIdle { key: &key }, &mut emit);
            }
        }
        failed.map_or(Ok(Applied::Done), Err)
    }

    /// The input has ended.
    pub fn end(
        &mut self,
        prepared: &Prepared,
        cause: Cause,
        effects: &mut Effects,
    ) -> Result<Applied, Failure> {
        let missing = effects.missing.len();
        for operator in &mut self.operators {
            operator.missing(&Input::End, &mut effects.missing);
        }
        if effects.missing.len() > missing {
            return Ok(Applied::Missing);
        }
        let (mut causes, mut failed) = (Causes(cause), None);
        for (operator, window) in self.operators.iter_mut().zip(&prepared.windows) {
            let time = Timestamp::MAX;
            let mut emit = Emit {
                prepared,
                window,
                tally: &mut self.tally,
                causes: &mut causes,
                effects,
                time,
                failed: &mut failed,
            };
            operator.apply(&Input::End, &mut emit);
        }
        failed.map_or(Ok(Applied::Done), Err)
    }
}

/// Whether the step shows early results after some time of the wall clock.
pub(crate) fn waits_for_the_wall_clock(operator: &Operator) -> bool {
    matches!(operator.spec().early, Some(Early::ProcessingTimeDelay(_)))
}
