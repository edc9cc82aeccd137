//! A pane: one window of one key (and its further segments), with its accumulators, ids and what was published.

use granary_core::Timestamp;

use crate::Corrupt;
use crate::aggregate::{Accumulator, Sample};
use crate::encode::{Reader, put_bytes, put_i64, put_u64};
use crate::ids::{Encoded, Id, Ids};
use crate::row::{Op, Output, Reason, Row};
use crate::rules::{Layout, Rules, length, next_multiple};
use crate::spec::{Early, Emit};
use crate::value::{Former, Values, ValuesOf};

/// A key, or the segments below it, without an allocation when they are short.
#[derive(Clone, Debug)]
pub(crate) enum Segments {
    Short(u8, [u8; SHORT]),
    Long(Box<Box<[u8]>>),
}

const SHORT: usize = 22;

impl Segments {
    pub(crate) fn new(bytes: &[u8]) -> Segments {
        if bytes.len() <= SHORT {
            let mut short = [0; SHORT];
            short[..bytes.len()].copy_from_slice(bytes);
            Segments::Short(bytes.len() as u8, short)
        } else {
            Segments::Long(Box::new(bytes.into()))
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Segments::Short(n, bytes) => &bytes[..usize::from(*n)],
            Segments::Long(bytes) => bytes,
        }
    }

    /// Memory beside the value itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        if let Segments::Long(bytes) = self { bytes.len() + 32 } else { 0 }
    }
}

/// One window's state.
#[derive(Clone, Debug)]
pub(crate) struct Pane {
    pub(crate) by: Segments,
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) accumulators: Vec<Accumulator>,
    pub(crate) ids: Ids,
    /// `event_time_every`: the watermark of the next early result. `processing_time_delay`: the clock at the arrival
    /// of the first event since the last result. [`i64::MAX`]: none.
    pub(crate) alarm: i64,
    /// The values published last, when they may have to be taken back.
    pub(crate) former: Option<Box<[Former]>>,
    /// The number of the next row.
    pub(crate) revision: u32,
    /// Events since the last row.
    pub(crate) since: u32,
    /// The result that time brings has come.
    pub(crate) fired: bool,
    /// A row of these bounds was published, and not taken back.
    pub(crate) published: bool,
    /// Why the last row came; of no meaning before the first.
    pub(crate) reason: Reason,
    /// Memory of long accumulators, about.
    long_bytes: usize,
}

/// What surrounds a change of a pane.
pub(crate) struct Scene<'a> {
    pub(crate) rules: &'a Rules,
    /// The key's name.
    pub(crate) key: &'a [u8],
    /// The watermark that counts for the key.
    pub(crate) w: i64,
    /// The wall clock.
    pub(crate) now: i64,
}

impl Pane {
    /// An empty pane of these bounds; memory of `reuse` is used again.
    pub(crate) fn open(rules: &Rules, by: &[u8], start: i64, end: i64, reuse: Option<Pane>) -> Pane {
        let mut accumulators = reuse.map_or_else(Vec::new, |pane| pane.accumulators);
        rules.plan.reset(&mut accumulators);
        Pane {
            by: Segments::new(by),
            start,
            end,
            accumulators,
            ids: Ids::None,
            alarm: i64::MAX,
            former: None,
            revision: 0,
            since: 0,
            fired: false,
            published: false,
            reason: Reason::Early,
            long_bytes: 0,
        }
    }

    /// When time next changes the pane, and whether that can bring a result.
    pub(crate) fn next(&self, rules: &Rules) -> (i64, bool) {
        match rules.emit {
            Emit::Watermark if !self.fired => match rules.early {
                Some(Early::EventTimeEvery(_)) => (self.alarm.min(rules.due(self.end)), true),
                _ => (rules.due(self.end), true),
            },
            Emit::Final if !self.fired => (rules.last_call(self.end), true),
            _ => (rules.retire(self.end), false),
        }
    }

    /// Takes an event in, without publishing anything.
    pub(crate) fn accumulate(
        &mut self,
        scene: &Scene<'_>,
        sample: &Sample<'_>,
        id: Option<Id>,
        arrived_at: i64,
    ) {
        self.long_bytes += scene.rules.plan.accumulate(&mut self.accumulators, sample);
        if let Some(id) = id {
            self.ids.insert(id);
        }
        match scene.rules.early {
            Some(Early::EventTimeEvery(every)) if self.alarm == i64::MAX => {
                self.alarm = next_multiple(sample.time, length(every));
            }
            Some(Early::ProcessingTimeDelay(_)) if self.since == 0 => self.alarm = arrived_at,
            _ => {}
        }
        self.since = self.since.saturating_add(1);
    }

    /// Publishes what an event brings.
    pub(crate) fn after_event(&mut self, scene: &Scene<'_>, out: &mut impl Output) {
        match scene.rules.emit {
            Emit::EveryUpdate => self.publish(scene, Reason::Update, out),
            Emit::Final => {}
            Emit::Watermark if scene.w >= scene.rules.due(self.end) => {
                self.fired = true;
                self.publish(scene, Reason::Late, out);
            }
            Emit::Watermark => match scene.rules.early {
                Some(Early::Count(n)) if self.since >= n => self.publish(scene, Reason::Early, out),
                _ => {}
            },
        }
    }

    /// Publishes what the passing of time brings.
    pub(crate) fn after_time(&mut self, scene: &Scene<'_>, out: &mut impl Output) {
        if self.fired {
            return;
        }
        match scene.rules.emit {
            Emit::Watermark if scene.w >= scene.rules.due(self.end) => {
                self.fired = true;
                self.publish(scene, Reason::OnTime, out);
            }
            Emit::Watermark => {
                if let Some(Early::EventTimeEvery(every)) = scene.rules.early
                    && scene.w >= self.alarm
                {
                    if self.since > 0 {
                        self.publish(scene, Reason::Early, out);
                    }
                    self.alarm = next_multiple(scene.w, length(every));
                }
            }
            Emit::Final if scene.w >= scene.rules.last_call(self.end) => {
                self.fired = true;
                self.publish(scene, Reason::Final, out);
            }
            Emit::Final | Emit::EveryUpdate => {}
        }
    }

    /// Publishes what the passing of the wall clock brings: an early result that was waited for long enough.
    pub(crate) fn after_delay(&mut self, scene: &Scene<'_>, out: &mut impl Output) -> bool {
        let Some(Early::ProcessingTimeDelay(delay)) = scene.rules.early else { return false };
        let waits = scene.rules.emit == Emit::Watermark
            && self.since > 0
            && scene.w < scene.rules.due(self.end)
            && scene.now >= self.alarm.saturating_add(length(delay));
        if waits {
            self.publish(scene, Reason::Early, out);
        }
        waits
    }

    /// Gives a row.
    pub(crate) fn publish(&mut self, scene: &Scene<'_>, reason: Reason, out: &mut impl Output) {
        let rules = scene.rules;
        if rules.discarding && self.since == 0 {
            return;
        }
        if rules.retracting && self.published {
            self.take_back(scene, reason, out);
        }
        let values = Values(ValuesOf::Live(&rules.plan, &self.accumulators));
        out.result(self.row(scene, reason, rules.retracting.then_some(Op::Add), values));
        if rules.retracting {
            self.former = Some(values.iter().map(|value| Former::of(&value)).collect());
        }
        self.revision = self.revision.saturating_add(1);
        self.published = true;
        self.reason = reason;
        self.since = 0;
        if rules.discarding {
            rules.plan.reset(&mut self.accumulators);
            self.long_bytes = 0;
        }
    }

    /// Takes in a pane that became part of this one.
    pub(crate) fn merge(&mut self, rules: &Rules, other: Pane) {
        self.alarm = self.waiting_alarm(rules).min(other.waiting_alarm(rules));
        self.since = self.since.saturating_add(other.since);
        self.revision = self.revision.max(other.revision);
        self.long_bytes += other.long_bytes;
        self.ids.merge(other.ids);
        rules.plan.merge(&mut self.accumulators, other.accumulators);
    }

    /// The alarm, unless it stands for an arrival that was reported since.
    fn waiting_alarm(&self, rules: &Rules) -> i64 {
        match rules.early {
            Some(Early::ProcessingTimeDelay(_)) if self.since == 0 => i64::MAX,
            _ => self.alarm,
        }
    }

    /// Withdraws the published row because the session became another.
    pub(crate) fn withdraw(&mut self, scene: &Scene<'_>, out: &mut impl Output) {
        if self.published && scene.rules.withdraws {
            self.take_back(scene, Reason::Delete, out);
        }
        self.published = false;
        self.former = None;
    }

    /// The row that takes the published one back: with its values when the step retracts.
    fn take_back(&mut self, scene: &Scene<'_>, reason: Reason, out: &mut impl Output) {
        let values = match &self.former {
            Some(former) => Values(ValuesOf::Kept(former)),
            None => Values(ValuesOf::None),
        };
        out.result(self.row(scene, reason, scene.rules.retracting.then_some(Op::Retract), values));
        self.revision = self.revision.saturating_add(1);
    }

    pub(crate) fn row<'a>(
        &'a self,
        scene: &Scene<'a>,
        reason: Reason,
        op: Option<Op>,
        values: Values<'a>,
    ) -> Row<'a> {
        let (start, end) = match scene.rules.layout {
            Layout::Global => (i64::MIN, i64::MAX),
            _ => (self.start, self.end),
        };
        Row {
            key: scene.key,
            by: self.by.bytes(),
            start: Timestamp(start),
            end: Timestamp(end),
            reason,
            op,
            revision: self.revision,
            values,
        }
    }

    /// Memory that events add to, about.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.ids.heap_bytes() + self.long_bytes
    }

    /// Memory it takes, about.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Pane>() + self.accumulators.len() * size_of::<Accumulator>() + self.heap_bytes()
    }

    /// Appends all but the accumulators; `base` is the start of its slice.
    pub(crate) fn encode_head(&self, base: i64, out: &mut Vec<u8>) {
        put_bytes(out, self.by.bytes());
        put_i64(out, self.start.wrapping_sub(base));
        put_u64(out, self.end.abs_diff(self.start));
        let flags = u8::from(self.fired)
            | u8::from(self.published) << 1
            | u8::from(self.former.is_some()) << 2
            | u8::from(self.alarm != i64::MAX) << 3
            | self.reason.code() << 4;
        out.push(flags);
        put_u64(out, u64::from(self.revision));
        put_u64(out, u64::from(self.since));
        if self.alarm != i64::MAX {
            put_i64(out, self.alarm);
        }
        if let Some(former) = &self.former {
            put_u64(out, former.len() as u64);
            former.iter().for_each(|value| value.encode(out));
        }
        self.ids.encode(out);
    }

    pub(crate) fn encode_accumulators(&self, rules: &Rules, out: &mut Vec<u8>) {
        rules.plan.encode(&self.accumulators, out);
    }

    pub(crate) fn decode_accumulators(
        &mut self,
        rules: &Rules,
        reader: &mut Reader<'_>,
    ) -> Result<(), Corrupt> {
        let left = reader.left();
        self.accumulators = rules.plan.decode(reader)?;
        let sketched = self.accumulators.iter().map(Accumulator::sketch_bytes).sum();
        self.long_bytes = (left - reader.left()).max(sketched);
        Ok(())
    }
}

/// What a cell says of a pane before its accumulators.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    pub(crate) by: &'a [u8],
    start: i64,
    pub(crate) end: i64,
    flags: u8,
    revision: u32,
    since: u32,
    alarm: i64,
    former: Option<Box<[Former]>>,
    pub(crate) ids: Encoded<'a>,
}

impl<'a> Head<'a> {
    /// Reads what [`Pane::encode_head`] wrote.
    pub(crate) fn read(base: i64, reader: &mut Reader<'a>) -> Result<Self, Corrupt> {
        let by = reader.bytes()?;
        let start = base.wrapping_add(reader.i64()?);
        let end = start.saturating_add_unsigned(reader.u64()?);
        let flags = reader.byte()?;
        let (revision, since) = (reader.u32()?, reader.u32()?);
        let alarm = if flags & 8 != 0 { reader.i64()? } else { i64::MAX };
        let former = if flags & 4 != 0 {
            let n = reader.count()?;
            Some((0..n).map(|_| Former::decode(reader)).collect::<Result<_, _>>()?)
        } else {
            None
        };
        let ids = Encoded::read(reader)?;
        Ok(Head { by, start, end, flags, revision, since, alarm, former, ids })
    }

    /// The pane, whose accumulators are to be read yet.
    pub(crate) fn pane(self) -> Result<Pane, Corrupt> {
        Ok(Pane {
            by: Segments::new(self.by),
            start: self.start,
            end: self.end,
            accumulators: Vec::new(),
            ids: Ids::of(self.ids),
            alarm: self.alarm,
            former: self.former,
            revision: self.revision,
            since: self.since,
            fired: self.flags & 1 != 0,
            published: self.flags & 2 != 0,
            reason: Reason::of_code(self.flags >> 4)?,
            long_bytes: 0,
        })
    }
}
