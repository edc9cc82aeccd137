//! What patterns and joins find in the records of a slot.

use granary_cluster::{Effects, Record, StreamId};
use granary_core::{SlotId, Span, Timestamp, codec};
use granary_window::join::{Joiner, Paired, Side};
use granary_window::noted::Noted;
use granary_window::pattern::{Found, Judge, Matcher, Selection};
use granary_window::track::{Arrival, Host, Outcome, Tracks};
use granary_window::{Corrupt, Put};

use super::counts::{Tally, Verdict};
use super::emit::{Causes, grain};
use super::found::{Row, id_of};
use super::prepared::{Follow, Prepared};
use super::route::Routed;
use super::rows;
use super::slot::{Judged, Slot, better, id_bytes, set_aside};
use crate::plan::expression::Outcome as Given;
use crate::plan::{Column, From, JoinStep, PatternStep, Target, column_of};

/// A pattern or a join in one slot.
#[derive(Debug)]
pub(crate) enum Follower {
    Pattern(Tracks<Matcher<Noted>>),
    Join(Tracks<Joiner<Noted>>),
}

/// Does the same with either.
macro_rules! either {
    ($follower:expr, $tracks:ident => $does:expr) => {
        match $follower {
            Follower::Pattern($tracks) => $does,
            Follower::Join($tracks) => $does,
        }
    };
}

impl Follower {
    fn new(prepared: &Prepared, follow: &Follow, slot: SlotId) -> Follower {
        let plan = &prepared.plan;
        let step = &plan.steps[follow.step];
        let mut follower = if let Some(join) = step.join() {
            let paces = join.sides.each_ref().map(|side| plan.pace(side.source));
            Follower::Join(Tracks::new(join.join.clone(), &paces, &join.state.prefix))
        } else {
            let pattern = step.pattern().expect("prepared steps are patterns or joins");
            let pace = plan.pace(step.source);
            Follower::Pattern(Tracks::new(pattern.pattern.clone(), &[pace], &pattern.state.prefix))
        };
        for (side, (source, _)) in follow.sides.iter().enumerate() {
            either!(&mut follower, tracks => tracks.reads(side, prepared.partitions_read(*source, slot)));
        }
        follower
    }

    pub fn missing_root(&self, cells: &mut Vec<Vec<u8>>) {
        either!(self, tracks => tracks.missing_root(cells));
    }

    fn missing(&self, key: &[u8], cells: &mut Vec<Vec<u8>>) {
        either!(self, tracks => tracks.missing(key, cells));
    }

    /// Takes a cell; `None` when it is of another step.
    pub fn supply(&mut self, cell: &[u8], value: Option<&[u8]>) -> Option<Result<(), Corrupt>> {
        either!(self, tracks => cell.starts_with(tracks.prefix()).then(|| tracks.supply(cell, value)))
    }

    pub fn seal(&mut self, n: u64, put: &mut Put<'_>) {
        either!(self, tracks => tracks.seal(n, put));
    }

    pub fn acknowledged(&mut self, n: u64) {
        either!(self, tracks => tracks.acknowledged(n));
    }

    pub fn evict(&mut self, target_bytes: usize, looks_max: usize) {
        either!(self, tracks => tracks.evict(target_bytes, looks_max));
    }

    pub fn open_cells(&self) -> usize {
        either!(self, tracks => tracks.open_cells())
    }

    pub fn memory_bytes(&self) -> usize {
        either!(self, tracks => tracks.memory_bytes())
    }

    pub fn pass(&mut self, stood: Span) -> Option<Timestamp> {
        either!(self, tracks => tracks.pass(stood))
    }

    pub fn set_clock(&mut self, to: Timestamp) {
        either!(self, tracks => tracks.set_clock(to));
    }

    pub fn end(&mut self) {
        either!(self, tracks => tracks.end());
    }

    pub fn is_due(&self) -> bool {
        either!(self, tracks => tracks.is_due())
    }

    fn missing_due(&mut self, cells: &mut Vec<Vec<u8>>) {
        either!(self, tracks => tracks.missing_due(cells));
    }

    fn take_cut(&mut self) -> u64 {
        either!(self, tracks => tracks.take_cut())
    }
}

/// Takes what a step finds to its sinks.
struct Writer<'a> {
    prepared: &'a Prepared,
    follow: &'a Follow,
    tally: &'a mut Tally,
    causes: &'a mut Causes,
    effects: &'a mut Effects,
}

impl Writer<'_> {
    fn write(&mut self, key: &[u8], row: &Row) {
        for sink in &self.follow.sinks {
            match &self.prepared.plan.sinks[*sink].to {
                Target::Topic(_) | Target::File(_) => self.effects.outbox.push(
                    StreamId(*sink as u16),
                    self.causes.next(),
                    row.time,
                    key,
                    |out| out.extend_from_slice(&row.id),
                    |out| out.extend_from_slice(&row.json),
                ),
                Target::Grain { kind, method } => {
                    let value: serde_json::Value =
                        serde_json::from_slice(&row.json).expect("a row that was just written is JSON");
                    let arguments = codec::to_bytes(&value).expect("JSON can be encoded");
                    self.effects.tells.push((grain(kind, key), method.clone(), arguments));
                }
                Target::Call(_) => {} // made for windows only
            }
            self.tally.result(*sink, 1);
        }
    }
}

/// Conditions of stages, on events as they are kept.
struct Conditions<'a>(&'a PatternStep);

impl Judge<Noted> for Conditions<'_> {
    fn fits(&self, stage: usize, event: &Noted, selection: &Selection<'_, Noted>) -> bool {
        let Some(condition) = &self.0.conditions[stage] else { return true };
        if !condition.reads_groups() {
            return event.truths >> stage & 1 == 1;
        }
        let place = |index: usize| self.0.kept.iter().position(|column| column.index == index);
        let given = condition.evaluate(|index| {
            let (of, index) = column_of(index);
            let event = of.map_or(Some(event), |stage| selection.last(stage));
            let value = event.zip(place(index)).map(|(event, place)| event.value(place));
            value.unwrap_or(granary_window::Value::Null)
        });
        // what cannot be evaluated, of a stage that was left out for one, does not hold
        given == Ok(Given::Bool(true))
    }
}

/// Has a pattern's rows written.
struct OfPattern<'a, 'w>(&'a PatternStep, &'a mut Writer<'w>);

impl Host<Matcher<Noted>> for OfPattern<'_, '_> {
    fn advance(&mut self, key: &[u8], machine: &mut Matcher<Noted>, to: Timestamp) {
        let OfPattern(pattern, writer) = self;
        machine.advance(to, &Conditions(pattern), &mut |found: Found<'_, Noted>| {
            let row = writer.follow.frame.matched(pattern, key, &found);
            writer.write(key, &row);
        });
    }
}

/// Has a join's rows written.
struct OfJoin<'a, 'w>(&'a JoinStep, &'a mut Writer<'w>);

impl OfJoin<'_, '_> {
    fn write(&mut self, key: &[u8], paired: &Paired<'_, Noted>) {
        let row = self.1.follow.frame.paired(self.0, key, paired);
        self.1.write(key, &row);
    }
}

impl Host<Joiner<Noted>> for OfJoin<'_, '_> {
    fn advance(&mut self, key: &[u8], machine: &mut Joiner<Noted>, to: Timestamp) {
        machine.advance(to, &mut |paired| self.write(key, &paired));
    }
}

/// A record on its way to a step.
#[derive(Clone, Copy)]
struct Coming<'a> {
    routed: Routed<'a>,
    record: &'a Record<'a>,
    /// The place of its source.
    source: usize,
}

impl<'a> Coming<'a> {
    fn noted(self, prepared: &Prepared, kept: &[Column], truths: u64) -> Noted {
        let Coming { routed, record, source } = self;
        let value = |index| routed.fields.value(index, record.value);
        let id = prepared.plan.sources[source].id.map(value);
        Noted {
            id: id_of(id, record.partition, record.offset),
            time: routed.time(),
            truths,
            values: kept.iter().map(|column| value(column.index).keep()).collect(),
        }
    }

    /// Whether it gets to the end of what a side reads from.
    fn gets_to(self, from: From) -> bool {
        match from {
            From::Source(source) => source == self.source,
            From::Step(step) => self.routed.passes[step],
        }
    }

    fn arrival<'i>(
        self,
        key: &'i [u8],
        side: usize,
        id: Option<&'i [u8]>,
        prepared: &Prepared,
    ) -> Arrival<'i> {
        let partition = prepared.partition_of(self.record);
        Arrival { key, side, partition, time: self.routed.time(), id }
    }
}

impl Slot {
    /// The patterns and joins of a plan.
    pub fn followers(prepared: &Prepared, slot: SlotId) -> Vec<Follower> {
        prepared.follows.iter().map(|follow| Follower::new(prepared, follow, slot)).collect()
    }

    /// Names the cells that patterns and joins lack for the record.
    pub fn followers_lack_cells(
        &self,
        prepared: &Prepared,
        routed: Routed<'_>,
        record: &Record<'_>,
        effects: &mut Effects,
    ) {
        let source = prepared.plan.source_of(record.source);
        for (follower, follow) in self.followers.iter().zip(&prepared.follows) {
            if follow.reads(source) {
                follower.missing(routed.key(record.value), &mut effects.missing);
            }
        }
    }

    /// Hands the record to all patterns and joins that read its source; what became of it, if it gets to any.
    pub fn follow(
        &mut self,
        prepared: &Prepared,
        routed: Routed<'_>,
        record: &Record<'_>,
        causes: &mut Causes,
        effects: &mut Effects,
    ) -> Option<Judged> {
        let source = prepared.plan.source_of(record.source);
        let coming = Coming { routed, record, source };
        let mut best = None;
        for (i, follow) in prepared.follows.iter().enumerate().filter(|(_, follow)| follow.reads(source)) {
            let step = &prepared.plan.steps[follow.step];
            for (side, from) in follow.sides.iter().enumerate().filter(|(_, (of, _))| *of == source) {
                let passes = coming.gets_to(from.1);
                let (judged, watermark) = if prepared.is_future(record, routed.time()) {
                    ((Verdict::Late, "future"), None)
                } else {
                    let writer = &mut Writer { prepared, follow, tally: &mut self.tally, causes, effects };
                    let outcome = follow_one(&mut self.followers[i], side, passes, coming, writer);
                    self.tally.cut(self.followers[i].take_cut());
                    match outcome {
                        Outcome::Accepted => ((Verdict::Accepted, ""), None),
                        Outcome::Duplicate => ((Verdict::Duplicate, ""), None),
                        Outcome::Late(w) => ((Verdict::Late, "late"), Some(w)),
                        Outcome::Overflow => ((Verdict::Late, "overflow"), None),
                    }
                };
                if !passes {
                    continue;
                }
                if judged.0 == Verdict::Late {
                    let watermark = watermark.filter(|w| *w != Timestamp::MIN);
                    let (key, time, step) = (routed.key(record.value), routed.time(), Some(&*step.name));
                    let late = rows::Late { reason: judged.1, key, time, watermark, step };
                    set_aside(prepared, routed, record, &late, causes, effects);
                }
                best = better(best, Some(judged));
            }
        }
        best
    }

    /// Names the cells without which it is not known what is due for patterns and joins.
    pub fn followers_lack_roots(&self, effects: &mut Effects) {
        self.followers.iter().for_each(|follower| follower.missing_root(&mut effects.missing));
    }

    /// The slot has stood so much longer: how late that makes it for those that have something due then.
    pub fn followers_stand(&mut self, stood: Span) -> Vec<(u16, i64)> {
        let clocks = (0..).zip(&mut self.followers);
        clocks.filter_map(|(place, follower)| Some((place, follower.pass(stood)?.ms()))).collect()
    }

    /// It is so late for these.
    pub fn set_followers(&mut self, clocks: &[(u16, i64)]) {
        for (place, ms) in clocks {
            if let Some(follower) = self.followers.get_mut(usize::from(*place)) {
                follower.set_clock(Timestamp(*ms));
            }
        }
    }

    /// A portion of what is due for the first of them that has something due; false when cells are missing for it.
    pub fn follow_due(&mut self, prepared: &Prepared, causes: &mut Causes, effects: &mut Effects) -> bool {
        let Some(i) = self.followers.iter().position(Follower::is_due) else { return true };
        let missing = effects.missing.len();
        self.followers[i].missing_due(&mut effects.missing);
        if effects.missing.len() > missing {
            return false;
        }
        let follow = &prepared.follows[i];
        let step = &prepared.plan.steps[follow.step];
        let mut writer = Writer { prepared, follow, tally: &mut self.tally, causes, effects };
        match &mut self.followers[i] {
            Follower::Pattern(tracks) => {
                let pattern = step.pattern().expect("a prepared pattern");
                tracks.go_on(&mut OfPattern(pattern, &mut writer));
            }
            Follower::Join(tracks) => {
                tracks.go_on(&mut OfJoin(step.join().expect("a prepared join"), &mut writer));
            }
        }
        self.tally.cut(self.followers[i].take_cut());
        true
    }
}

/// Hands a record to one side of a step.
fn follow_one(
    follower: &mut Follower,
    side: usize,
    passes: bool,
    coming: Coming<'_>,
    writer: &mut Writer<'_>,
) -> Outcome {
    let Coming { routed, record, .. } = coming;
    let prepared = writer.prepared;
    let step = &prepared.plan.steps[writer.follow.step];
    let key = routed.key(record.value);
    let mut buffer = Vec::new();
    match follower {
        Follower::Pattern(tracks) => {
            let pattern = step.pattern().expect("a prepared pattern");
            let id = id_bytes(&pattern.dedup, routed.fields, record.value, &mut buffer);
            let arrival = coming.arrival(key, side, id, prepared);
            let enter = passes.then(|| {
                let noted = coming.noted(prepared, &pattern.kept, truths(pattern, coming));
                move |_: &mut OfPattern<'_, '_>, machine: &mut Matcher<Noted>| {
                    machine.event(noted.time, noted);
                }
            });
            tracks.event(&arrival, &mut OfPattern(pattern, writer), enter)
        }
        Follower::Join(tracks) => {
            let join = step.join().expect("a prepared join");
            let of = &join.sides[side];
            let id = id_bytes(&of.dedup, routed.fields, record.value, &mut buffer);
            let arrival = coming.arrival(key, side, id, prepared);
            let enter = passes.then(|| {
                let value = |index| routed.fields.value(index, record.value);
                let deletes = |deleted: &crate::plan::expression::Expression| {
                    deleted.evaluate(value) == Ok(Given::Bool(true))
                };
                let is_deleted = side == 1 && join.deleted.as_ref().is_some_and(deletes);
                let noted = (!is_deleted).then(|| coming.noted(prepared, &of.shown, 0));
                let (side, time) = ([Side::Left, Side::Right][side], routed.time());
                move |host: &mut OfJoin<'_, '_>, machine: &mut Joiner<Noted>| {
                    machine.event(side, time, noted, &mut |paired| host.write(key, &paired));
                }
            });
            tracks.event(&arrival, &mut OfJoin(join, writer), enter)
        }
    }
}

/// What the conditions say that look at the event alone.
fn truths(pattern: &PatternStep, coming: Coming<'_>) -> u64 {
    let holds = |condition: &crate::plan::expression::Expression| {
        let value = |index| coming.routed.fields.value(index, coming.record.value);
        !condition.reads_groups() && condition.evaluate(value) == Ok(Given::Bool(true))
    };
    let conditions = pattern.conditions.iter().enumerate();
    conditions.fold(0, |truths, (stage, condition)| {
        truths | u64::from(condition.as_ref().is_some_and(holds)) << stage
    })
}
