//! De-duplication without a window: of the events with one id, one passes.

use std::collections::BTreeMap;

use foldhash::fast::FixedState;
use granary_core::{Span, Timestamp};
use hashbrown::HashMap;

use crate::Corrupt;
use crate::encode::{Reader, VERSION, put_bytes, put_i64, put_u64};
use crate::ids::{Id, id_of};
use crate::rules::{lateness_ms, length};
use crate::spec::Lateness;

/// Which of the events with one id passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The first to arrive, at once. Its id is remembered until the watermark is this far past its time; `None`: for
    /// ever.
    First(Option<Span>),
    /// The one with the largest time; equal times: the later arrival. A new holder takes the former one back.
    Last,
    /// The one with the smallest time, when the watermark reaches it; equal times: the earlier arrival.
    FirstByTime,
}

/// What the de-duplication says of an event, named by the tag it came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It passes.
    Passes(&'a [u8]),
    /// It had passed, and is taken back.
    TakenBack(&'a [u8]),
    /// It is a copy.
    Duplicate(&'a [u8]),
    /// It came too late.
    Late(&'a [u8]),
}

/// The events of one key, by id. State is one cell: [`Distinct::encode`].
#[derive(Clone, Debug)]
pub struct Distinct {
    keep: Keep,
    lateness: Option<i64>,
    watermark: i64,
    holders: HashMap<Id, Holder, FixedState>,
    /// Ids by the watermark at which something happens to them: they are forgotten, or pass.
    due: BTreeMap<(i64, u64), Id>,
    arrivals: u64,
}

#[derive(Clone, Debug)]
struct Holder {
    time: i64,
    arrival: u64,
    /// Nothing else can take its place.
    passed: bool,
    /// Kept as long as it may have to be named again.
    tag: Box<[u8]>,
}

impl Distinct {
    /// One that has seen nothing.
    pub fn new(keep: Keep, allowed_lateness: Lateness) -> Distinct {
        Distinct {
            keep,
            lateness: lateness_ms(allowed_lateness),
            watermark: i64::MIN,
            holders: HashMap::default(),
            due: BTreeMap::new(),
            arrivals: 0,
        }
    }

    /// The watermark.
    pub fn watermark(&self) -> Timestamp {
        Timestamp(self.watermark)
    }

    /// An event arrives; `tag` names it in verdicts.
    pub fn event(&mut self, id: &[u8], time: Timestamp, tag: &[u8], out: &mut impl FnMut(Verdict<'_>)) {
        let time = time.ms();
        if self.lateness.is_some_and(|lateness| time.saturating_add(lateness) <= self.watermark) {
            out(Verdict::Late(tag));
            return;
        }
        let arrival = self.arrivals;
        self.arrivals += 1;
        let id = id_of(id);
        let new = Holder { time, arrival, passed: self.keep != Keep::FirstByTime, tag: tag.into() };
        let Some(held) = self.holders.get_mut(&id) else {
            self.admit(id, new, out);
            return;
        };
        let displaces = match self.keep {
            Keep::First(_) => false,
            Keep::Last => time >= held.time,
            Keep::FirstByTime => !held.passed && time < held.time,
        };
        if !displaces {
            out(Verdict::Duplicate(tag));
            return;
        }
        if held.passed {
            out(Verdict::TakenBack(&held.tag));
        } else {
            self.due.remove(&(held.time, held.arrival));
            out(Verdict::Duplicate(&held.tag));
        }
        self.admit(id, new, out);
    }

    /// An event becomes the holder of its id.
    fn admit(&mut self, id: Id, mut new: Holder, out: &mut impl FnMut(Verdict<'_>)) {
        match self.keep {
            Keep::First(horizon) => {
                out(Verdict::Passes(&new.tag));
                let Some(horizon) = horizon else {
                    new.tag = Box::default();
                    self.holders.insert(id, new);
                    return;
                };
                let forget_at = new.time.saturating_add(length(horizon));
                if self.watermark >= forget_at {
                    return;
                }
                self.due.insert((forget_at, new.arrival), id);
                new.tag = Box::default();
            }
            Keep::Last => out(Verdict::Passes(&new.tag)),
            Keep::FirstByTime if self.watermark >= new.time => {
                out(Verdict::Passes(&new.tag));
                new.passed = true;
                new.tag = Box::default();
            }
            Keep::FirstByTime => {
                self.due.insert((new.time, new.arrival), id);
            }
        }
        self.holders.insert(id, new);
    }

    /// The watermark is at least this.
    pub fn advance(&mut self, watermark: Timestamp, out: &mut impl FnMut(Verdict<'_>)) {
        if watermark.ms() <= self.watermark {
            return;
        }
        self.watermark = watermark.ms();
        while let Some(entry) = self.due.first_entry()
            && entry.key().0 <= self.watermark
        {
            let id = entry.remove();
            if let Keep::First(_) = self.keep {
                self.holders.remove(&id);
            } else if let Some(holder) = self.holders.get_mut(&id) {
                out(Verdict::Passes(&holder.tag));
                holder.passed = true;
                holder.tag = Box::default();
            }
        }
    }

    /// The state as a cell.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        put_i64(out, self.watermark);
        put_u64(out, self.arrivals);
        put_u64(out, self.holders.len() as u64);
        for (id, holder) in &self.holders {
            id.iter().for_each(|half| out.extend_from_slice(&half.to_le_bytes()));
            put_i64(out, holder.time);
            put_u64(out, holder.arrival);
            out.push(u8::from(holder.passed));
            put_bytes(out, &holder.tag);
        }
    }

    /// Takes the state from a cell.
    pub fn decode(&mut self, bytes: &[u8]) -> Result<(), Corrupt> {
        let mut reader = Reader::cell(bytes)?;
        self.watermark = reader.i64()?;
        self.arrivals = reader.u64()?;
        self.holders.clear();
        self.due.clear();
        for _ in 0..reader.count()? {
            let id = [u64::from_le_bytes(reader.array()?), u64::from_le_bytes(reader.array()?)];
            let (time, arrival) = (reader.i64()?, reader.u64()?);
            let holder = Holder { time, arrival, passed: reader.byte()? != 0, tag: reader.bytes()?.into() };
            match self.keep {
                Keep::First(Some(horizon)) => {
                    self.due.insert((time.saturating_add(length(horizon)), arrival), id);
                }
                Keep::FirstByTime if !holder.passed => {
                    self.due.insert((time, arrival), id);
                }
                _ => {}
            }
            self.holders.insert(id, holder);
        }
        reader.finish()
    }
}
