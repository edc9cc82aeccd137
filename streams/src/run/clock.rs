//! The passing of time in a slot: silent keys, early results that wait for the wall clock, the end of the input.

use granary_cluster::{Applied, ByClock, Cause, Effects, Failure};
use granary_core::{Span, Timestamp, codec};
use granary_window::rollup::Rollup;
use granary_window::{Early, Input, Operator, PORTION_WINDOWS, Row};

use serde::{Deserialize, Serialize};

use super::emit::{Causes, Emit};
use super::follow::Follower;
use super::prepared::Prepared;
use super::slot::Slot;

/// Silent keys named by one tick at most: the others follow with the next one.
const IDLE_KEYS_MAX: usize = 4_096;

/// What the wall clock decided in one step, for the step to be taken again: by operators, in their order.
#[derive(Debug, Serialize, Deserialize)]
enum Decided {
    /// It was so late; these operators heard of it, those were silent as a whole.
    Time {
        now_ms: i64,
        heard: Vec<u16>,
        silent: Vec<u16>,
        /// How late it became for judges of rules, by the places of their steps and their own.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        judges: Vec<(u16, u16, i64)>,
        /// The same for patterns and joins, by their places.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        followers: Vec<(u16, i64)>,
        /// The roll-ups that the slot holds back no longer, by their places.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        rolled: Vec<u16>,
    },
    /// These keys of an operator were silent.
    Keys { operator: u16, keys: Vec<Box<[u8]>> },
}

impl Decided {
    fn into_step(self) -> ByClock {
        ByClock::Input(codec::to_bytes(&self).expect("numbers and bytes can be encoded"))
    }
}

impl Slot {
    /// The wall clock: early results that wait for it come, silent keys are named and closed with [`Slot::go_on`].
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
        self.judges_lack_roots(effects);
        self.waiting.missing(prepared, &mut effects.missing);
        self.followers_lack_roots(effects);
        self.rollups_lack_roots(effects);
        if effects.missing.len() > missing {
            return Ok(Applied::Missing);
        }
        let stood = self.ticked_at.map_or(Span::ZERO, |before| now.since(before));
        self.ticked_at = Some(now);
        for (operator, idle) in self.operators.iter_mut().zip(&mut self.idle) {
            if operator.spec().watermark.idle_after.is_some() {
                operator.pass_silence(stood);
                operator.idle_keys(IDLE_KEYS_MAX.saturating_sub(idle.len()), idle);
            }
            if operator.is_idle_stream() {
                operator.missing(&Input::CloseIdleStream, &mut effects.missing);
            }
        }
        if effects.missing.len() > missing {
            return Ok(Applied::Missing);
        }
        let heard = self.numbers(waits_for_the_wall_clock);
        let silent = self.numbers(Operator::is_idle_stream);
        let (judges, followers) = (self.judges_stand(stood), self.followers_stand(stood));
        let rolled = self.rollups_stand(prepared, stood);
        let is_nothing = heard.is_empty() && silent.is_empty() && judges.is_empty() && followers.is_empty();
        if is_nothing && rolled.is_empty() {
            return Ok(self.applied());
        }
        self.set_clocks(&judges);
        self.set_followers(&followers);
        self.time_passes(prepared, now, &heard, &silent, cause, effects)?;
        self.report(prepared, cause, &rolled, effects);
        effects.by_clock =
            Some(Decided::Time { now_ms: now.ms(), heard, silent, judges, followers, rolled }.into_step());
        Ok(self.applied())
    }

    fn numbers(&self, is: impl Fn(&Operator) -> bool) -> Vec<u16> {
        (0..).zip(&self.operators).filter(|(_, operator)| is(operator)).map(|(i, _)| i).collect()
    }

    fn time_passes(
        &mut self,
        prepared: &Prepared,
        now: Timestamp,
        heard: &[u16],
        silent: &[u16],
        cause: Cause,
        effects: &mut Effects,
    ) -> Result<(), Failure> {
        let (mut causes, mut failed) = (Causes(cause), None);
        for (i, operator) in self.operators.iter_mut().enumerate() {
            let window = &prepared.windows[i];
            let (tally, time) = (&mut self.tally, now);
            let (causes, failed) = (&mut causes, &mut failed);
            let waiting = &mut self.waiting;
            let mut emit = Emit { prepared, window, tally, causes, effects, waiting, time, failed };
            if heard.contains(&(i as u16)) {
                operator.apply(&Input::ProcessingTime(now), &mut emit);
            }
            if silent.contains(&(i as u16)) {
                operator.apply(&Input::CloseIdleStream, &mut emit);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Takes a step of [`Slot::tick`] or [`Slot::go_on`] again.
    pub fn replay(
        &mut self,
        prepared: &Prepared,
        input: &[u8],
        cause: Cause,
        effects: &mut Effects,
    ) -> Result<Applied, Failure> {
        let decided = codec::from_bytes::<Decided>(input)
            .map_err(|error| Failure { message: format!("an input of the clock: {error}") })?;
        let missing = effects.missing.len();
        match &decided {
            Decided::Time { now_ms, heard, silent, judges, followers, rolled } => {
                let now = Timestamp(*now_ms);
                for (i, operator) in (0..).zip(&mut self.operators) {
                    if heard.contains(&i) {
                        operator.missing(&Input::ProcessingTime(now), &mut effects.missing);
                    }
                    if silent.contains(&i) {
                        operator.missing_index(&mut effects.missing);
                        operator.missing(&Input::CloseIdleStream, &mut effects.missing);
                    }
                }
                if !judges.is_empty() {
                    self.judges_lack_roots(effects);
                }
                if !followers.is_empty() {
                    self.followers_lack_roots(effects);
                }
                self.rollups_lack_roots(effects);
                if effects.missing.len() > missing {
                    return Ok(Applied::Missing);
                }
                self.set_clocks(judges);
                self.set_followers(followers);
                self.time_passes(prepared, now, heard, silent, cause, effects)?;
                self.report(prepared, cause, rolled, effects);
            }
            Decided::Keys { operator, keys } => {
                self.rollups_lack_roots(effects);
                let i = usize::from(*operator);
                let Some(operator) = self.operators.get_mut(i) else {
                    return Err(Failure {
                        message: format!("the clock knew a step {i} that the plan lacks"),
                    });
                };
                for key in keys {
                    operator.missing(&Input::CloseIdle { key }, &mut effects.missing);
                }
                if effects.missing.len() > missing {
                    return Ok(Applied::Missing);
                }
                let (mut causes, mut failed) = (Causes(cause), None);
                let (window, tally, time) = (&prepared.windows[i], &mut self.tally, Timestamp::MAX);
                let (causes, seen) = (&mut causes, &mut failed);
                let waiting = &mut self.waiting;
                let mut emit = Emit { prepared, window, tally, causes, effects, waiting, time, failed: seen };
                for key in keys {
                    operator.apply(&Input::CloseIdle { key }, &mut emit);
                }
                if let Some(failed) = failed {
                    return Err(failed);
                }
                self.report(prepared, cause, &[], effects);
            }
        }
        effects.by_clock = Some(decided.into_step());
        Ok(self.applied())
    }

    /// The input has ended: what that makes due comes with [`Slot::go_on`].
    pub fn end(&mut self, prepared: &Prepared, effects: &mut Effects) -> Applied {
        let missing = effects.missing.len();
        for operator in &mut self.operators {
            operator.missing(&Input::End, &mut effects.missing);
        }
        self.judges_lack_roots(effects);
        self.followers_lack_roots(effects);
        self.rollups_lack_roots(effects);
        if effects.missing.len() > missing {
            return Applied::Missing;
        }
        for operator in &mut self.operators {
            operator.apply(&Input::End, &mut |_: Row<'_>| {});
        }
        self.seats.iter_mut().for_each(|seat| seat.judges.end());
        self.followers.iter_mut().for_each(Follower::end);
        self.end_rollups(prepared, prepared.ending_level);
        self.applied()
    }

    /// The next portion of what is due: of the first step that has any.
    pub fn go_on(
        &mut self,
        prepared: &Prepared,
        cause: Cause,
        effects: &mut Effects,
    ) -> Result<Applied, Failure> {
        let missing = effects.missing.len();
        self.rollups_lack_roots(effects);
        if effects.missing.len() > missing {
            return Ok(Applied::Missing);
        }
        let applied = self.next_portion(prepared, cause, effects)?;
        if effects.by_clock.is_some() {
            self.report(prepared, cause, &[], effects);
        }
        Ok(applied)
    }

    fn next_portion(
        &mut self,
        prepared: &Prepared,
        cause: Cause,
        effects: &mut Effects,
    ) -> Result<Applied, Failure> {
        let missing = effects.missing.len();
        self.waiting.missing(prepared, &mut effects.missing);
        if effects.missing.len() > missing {
            return Ok(Applied::Missing);
        }
        if !self.waiting.is_empty() {
            return Ok(self.judge_rows(prepared, cause, effects));
        }
        let mut ready = 0;
        let mut found = None;
        for (i, operator) in self.operators.iter_mut().enumerate() {
            operator.missing(&Input::GoOn, &mut effects.missing);
            if !operator.is_closing() && effects.missing.len() == missing {
                ready = keys_with_cells(operator, &self.idle[i], &mut effects.missing);
            }
            if effects.missing.len() > missing {
                return Ok(Applied::Missing);
            }
            if operator.is_closing() || ready > 0 {
                found = Some(i);
                break;
            }
        }
        let Some(i) = found else { return Ok(self.go_on_by_agenda(prepared, cause, effects)) };
        let (mut causes, mut failed) = (Causes(cause), None);
        let (operator, idle) = (&mut self.operators[i], &mut self.idle[i]);
        let (window, tally, time) = (&prepared.windows[i], &mut self.tally, Timestamp::MAX);
        let (causes, seen) = (&mut causes, &mut failed);
        let waiting = &mut self.waiting;
        let mut emit = Emit { prepared, window, tally, causes, effects, waiting, time, failed: seen };
        let step = if operator.is_closing() {
            operator.apply(&Input::GoOn, &mut emit);
            ByClock::Derived
        } else {
            let keys = close_idle(operator, idle, ready, &mut emit);
            Decided::Keys { operator: i as u16, keys }.into_step()
        };
        effects.by_clock = Some(step);
        failed.map_or(Ok(self.applied()), Err)
    }

    /// The next portion of what is due for rules, then for patterns and joins, then for roll-ups.
    fn go_on_by_agenda(&mut self, prepared: &Prepared, cause: Cause, effects: &mut Effects) -> Applied {
        let missing = effects.missing.len();
        self.judges_lack_roots(effects);
        self.followers_lack_roots(effects);
        if effects.missing.len() > missing {
            return Applied::Missing;
        }
        let is_done = if self.has_due() {
            self.judge_due(prepared, &mut Causes(cause), effects)
        } else if self.followers.iter().any(Follower::is_due) {
            self.follow_due(prepared, &mut Causes(cause), effects)
        } else if self.rollups.iter().any(Rollup::is_due) {
            self.roll_due(prepared, &mut Causes(cause), effects)
        } else {
            return Applied::Done;
        };
        if !is_done {
            return Applied::Missing;
        }
        effects.by_clock = Some(ByClock::Derived);
        self.applied()
    }

    /// What became of an input that was taken in: more may be due than one portion.
    pub fn applied(&self) -> Applied {
        let is_closing = self.operators.iter().any(Operator::is_closing);
        let is_closing = is_closing || self.has_due() || !self.waiting.is_empty();
        let is_closing = is_closing || self.followers.iter().any(Follower::is_due);
        let is_closing = is_closing || self.rollups.iter().any(Rollup::is_due);
        if is_closing || self.idle.iter().any(|idle| !idle.is_empty()) {
            Applied::More
        } else {
            Applied::Done
        }
    }
}

/// How many of the silent keys, from the first on, can be closed now; when the first one lacks cells, those of a
/// portion are named.
fn keys_with_cells(operator: &mut Operator, idle: &[Box<[u8]>], missing: &mut Vec<Vec<u8>>) -> usize {
    let before = missing.len();
    let mut ready = 0;
    for key in idle.iter().take(PORTION_WINDOWS) {
        operator.missing(&Input::CloseIdle { key }, missing);
        ready += usize::from(missing.len() == before);
        if missing.len() - before >= PORTION_WINDOWS {
            break;
        }
    }
    if ready > 0 {
        missing.truncate(before);
    }
    ready
}

/// Closes a portion of the silent keys, of the first `ready` ones, in the order in which they were named. Returns them.
fn close_idle(
    operator: &mut Operator,
    idle: &mut Vec<Box<[u8]>>,
    ready: usize,
    emit: &mut Emit<'_>,
) -> Vec<Box<[u8]>> {
    let outputs = |emit: &Emit<'_>| emit.effects.outbox.len() + emit.effects.tells.len();
    let before = outputs(emit);
    let mut closed = 0;
    for key in &idle[..ready] {
        operator.apply(&Input::CloseIdle { key }, emit);
        closed += 1;
        // the further portions of a key come before the next key
        if operator.is_closing() || outputs(emit) - before >= PORTION_WINDOWS {
            break;
        }
    }
    idle.drain(..closed).collect()
}

/// Whether the step shows early results after some time of the wall clock.
pub(crate) fn waits_for_the_wall_clock(operator: &Operator) -> bool {
    matches!(operator.spec().early, Some(Early::ProcessingTimeDelay(_)))
}
