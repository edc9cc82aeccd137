//! How the partial matches of a key are written, and read again. Selections that begin alike are written once.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use granary_core::Timestamp;

use super::Pattern;
use super::matcher::{Ended, Held, Matcher, TAKEN_MAX};
use super::partial::{Partial, Taken, Way};
use crate::Corrupt;
use crate::encode::{Reader, put_i64, put_u64};
use crate::shelf::{Shelf, Stored};
use crate::track::{BYTES_MAX, EVENTS_MAX, Machine};

const MORE: u64 = 0;
const TO: u64 = 1;
const ABSENCE: u64 = 2;

/// The events that were taken, each after the one before it.
#[derive(Default)]
struct Places(HashMap<*const Taken, u64>);

impl Places {
    /// Appends a selection, as far as it is not there yet: how many events that were, then each.
    fn put(&mut self, taken: &Rc<Taken>, out: &mut Vec<u8>) {
        let mut new = Vec::new();
        let mut at = Some(taken);
        while let Some(taken) = at.filter(|taken| !self.0.contains_key(&Rc::as_ptr(taken))) {
            new.push(taken);
            at = taken.before.as_ref();
        }
        put_u64(out, new.len() as u64);
        let before = at.map_or(0, |known| self.0[&Rc::as_ptr(known)] + 1);
        put_u64(out, before);
        for taken in new.into_iter().rev() {
            put_u64(out, taken.stage as u64);
            put_u64(out, taken.event);
            self.0.insert(Rc::as_ptr(taken), self.0.len() as u64);
        }
    }
}

/// Reads a selection after those that were read before it.
fn read_taken(
    known: &mut Vec<Rc<Taken>>,
    stages: usize,
    reader: &mut Reader<'_>,
) -> Result<Rc<Taken>, Corrupt> {
    let wrong = Corrupt { what: "an event of a selection expected" };
    let count = reader.u64()?;
    let mut last = match reader.u64()? {
        0 => None,
        before => Some(known.get(before as usize - 1).ok_or_else(|| wrong.clone())?.clone()),
    };
    for _ in 0..count {
        let (stage, event) = (reader.u64()? as usize, reader.u64()?);
        let is_later = last.as_ref().is_none_or(|last: &Rc<Taken>| last.event < event && last.stage <= stage);
        if stage >= stages || !is_later {
            return Err(wrong);
        }
        let taken = Rc::new(Taken::new(stage, event, last.take()));
        if taken.len > TAKEN_MAX {
            return Err(wrong);
        }
        known.push(taken.clone());
        last = Some(taken);
    }
    last.ok_or(wrong)
}

fn begin(taken: &Taken) -> u64 {
    taken.backwards().last().map_or(taken.event, |first| first.event)
}

fn put_way(way: Way, out: &mut Vec<u8>) {
    let (kind, stage) = match way {
        Way::More => (MORE, 0),
        Way::To(stage) => (TO, stage),
        Way::Absence(stage) => (ABSENCE, stage),
    };
    put_u64(out, (stage as u64) << 2 | kind);
}

fn read_way(stages: usize, reader: &mut Reader<'_>) -> Result<Way, Corrupt> {
    let way = reader.u64()?;
    let stage = (way >> 2) as usize;
    match way & 3 {
        MORE => Ok(Way::More),
        TO if stage < stages => Ok(Way::To(stage)),
        ABSENCE if stage < stages => Ok(Way::Absence(stage)),
        _ => Err(Corrupt { what: "a way of a partial match expected" }),
    }
}

impl<E: Stored> Machine for Matcher<E> {
    type Of = Pattern;
    type Kept = E;

    fn new(of: &Arc<Pattern>) -> Matcher<E> {
        Matcher::new(of.clone())
    }

    fn shelf(&self) -> &Shelf<E> {
        &self.held.shelf
    }

    fn shelf_mut(&mut self) -> &mut Shelf<E> {
        &mut self.held.shelf
    }

    fn is_late(&self, time: Timestamp) -> bool {
        time.ms() <= self.watermark
    }

    fn has_room(&mut self, _: Timestamp) -> bool {
        let is_full = |held: &Held<E>, part: usize| {
            held.shelf.len() >= EVENTS_MAX * part / 4 || held.shelf.bytes() >= BYTES_MAX * part / 4
        };
        if is_full(&self.held, 4) {
            self.sweep();
            while is_full(&self.held, 3) && !self.partials.is_empty() {
                self.drop_older_half();
            }
        }
        !is_full(&self.held, 4)
    }

    fn next_change(&self) -> Option<Timestamp> {
        self.next_change().map(Timestamp)
    }

    fn dropped(&self) -> u64 {
        self.dropped()
    }

    fn horizon(_: &Pattern) -> i64 {
        0 // until its time has come; then a copy is late
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_i64(out, self.watermark);
        put_u64(out, self.next);
        put_u64(out, self.held.taken.len() as u64);
        for (no, arrival) in &self.held.taken {
            put_u64(out, *no);
            put_u64(out, *arrival);
        }
        let mut places = Places::default();
        put_u64(out, self.partials.len() as u64);
        for Partial { taken, count, first_ms, ways, begin: _ } in &self.partials {
            places.put(taken, out);
            put_u64(out, u64::from(*count));
            put_i64(out, *first_ms);
            put_u64(out, ways.len() as u64);
            ways.iter().for_each(|way| put_way(*way, out));
        }
        put_u64(out, self.ended.len() as u64);
        for Ended { taken, done, begin: _ } in &self.ended {
            places.put(taken, out);
            put_u64(out, *done);
        }
    }

    fn read(of: &Arc<Pattern>, reader: &mut Reader<'_>) -> Result<Matcher<E>, Corrupt> {
        let mut matcher = Matcher::new(of.clone());
        let stages = of.stages.len();
        matcher.watermark = reader.i64()?;
        matcher.next = reader.u64()?;
        let mut taken = BTreeMap::new();
        for _ in 0..reader.count()? {
            taken.insert(reader.u64()?, reader.u64()?);
        }
        matcher.held.taken = taken;
        let mut known = Vec::new();
        for _ in 0..reader.count()? {
            let taken = read_taken(&mut known, stages, reader)?;
            let (count, first_ms) = (reader.u32()?, reader.i64()?);
            let ways = (0..reader.count()?).map(|_| read_way(stages, reader)).collect::<Result<_, _>>()?;
            matcher.partials.push(Partial { begin: begin(&taken), taken, count, first_ms, ways });
        }
        for _ in 0..reader.count()? {
            let taken = read_taken(&mut known, stages, reader)?;
            matcher.ended.push(Ended { begin: begin(&taken), done: reader.u64()?, taken });
        }
        if known.iter().any(|taken| !matcher.held.taken.contains_key(&taken.event)) {
            return Err(Corrupt { what: "the events of a selection expected" });
        }
        Ok(matcher)
    }

    fn settle(&mut self) -> Result<(), Corrupt> {
        let Held { shelf, taken } = &self.held;
        let waiting = shelf.iter().filter(|(_, entry)| !entry.is_marked);
        self.waiting = waiting.map(|(arrival, entry)| (entry.ms, arrival)).collect();
        if taken.values().any(|arrival| shelf.get(*arrival).is_none_or(|entry| !entry.is_marked))
            || taken.len() + self.waiting.len() != shelf.len()
        {
            return Err(Corrupt { what: "the events of the key expected" });
        }
        Ok(())
    }
}
