//! The events of one key in the order of (time, id), in chunks: a chunk is what is stored together, and where a sequence of
//! judgements can be taken up again.

use std::cmp::Ordering;
use std::collections::VecDeque;

use super::set::{Carries, Set};
use super::{ABSENT, Condition, Fact, Number, Text, Truth};

/// Events that are appended to a chunk; what comes out of order may make it twice as long.
pub(super) const CHUNK_EVENTS: usize = 32;

/// The place of an event: a chunk, and a place in it. The end of a chunk is the begin of the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub chunk: u32,
    pub at: u32,
}

/// Some events that follow each other, column by column.
#[derive(Clone, Debug, Default)]
pub(super) struct Chunk {
    /// What rules knew before its first event.
    pub carries: Carries,
    pub times: Vec<i64>,
    pub numbers: Vec<i64>,
    /// For each event the bits of: conditions that hold, rules that hit, rules that alerted.
    pub bits: Vec<u64>,
    /// For each event the bits of the rules that nobody is told of it by: it came before they did. Empty without any.
    pub silents: Vec<u64>,
    /// For each event its id and its texts: where they begin and end in `bytes`. Absent: `(1, 0)`.
    pub spans: Vec<(u32, u32)>,
    pub bytes: Vec<u8>,
    pub is_changed: bool,
}

/// The widths of a chunk's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub numbers: usize,
    pub texts: usize,
    pub conditions: usize,
    pub rules: usize,
}

impl Layout {
    /// Words of bits for conditions.
    pub fn condition_words(&self) -> usize {
        self.conditions.div_ceil(64)
    }

    /// Words of bits for rules that hit; as many again for those that alerted.
    pub fn rule_words(&self) -> usize {
        self.rules.div_ceil(64)
    }

    pub fn words(&self) -> usize {
        self.condition_words() + 2 * self.rule_words()
    }
}

/// Ids order as numbers where both are digits alone, which come before all others; else by their bytes.
pub(super) fn order_ids(a: &[u8], b: &[u8]) -> Ordering {
    let digits = |id: &[u8]| !id.is_empty() && id.iter().all(u8::is_ascii_digit);
    match (digits(a), digits(b)) {
        (true, true) => {
            let value = |id: &'_ [u8]| id.iter().position(|d| *d != b'0').unwrap_or(id.len());
            let (x, y) = (&a[value(a)..], &b[value(b)..]);
            x.len().cmp(&y.len()).then_with(|| x.cmp(y)).then_with(|| a.cmp(b))
        }
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => a.cmp(b),
    }
}

impl Chunk {
    pub fn len(&self) -> usize {
        self.times.len()
    }

    pub fn span(&self, i: usize) -> Option<&[u8]> {
        let (start, end) = self.spans[i];
        (start <= end).then(|| &self.bytes[start as usize..end as usize])
    }

    fn id(&self, layout: &Layout, at: usize) -> &[u8] {
        self.span(at * (1 + layout.texts)).unwrap_or_default()
    }

    fn insert(&mut self, layout: &Layout, at: usize, fact: &Fact<'_>) {
        self.is_changed = true;
        self.times.insert(at, fact.time.ms());
        self.numbers.splice(at * layout.numbers..at * layout.numbers, fact.numbers.iter().copied());
        let mut words = vec![0u64; layout.words()];
        for (i, _) in fact.truths.iter().enumerate().filter(|(_, truth)| **truth == Truth::Yes) {
            words[i / 64] |= 1 << (i % 64);
        }
        self.bits.splice(at * layout.words()..at * layout.words(), words);
        if !self.silents.is_empty() {
            let (begin, words) = (at * layout.rule_words(), vec![0u64; layout.rule_words()]);
            self.silents.splice(begin..begin, words);
        }
        let width = 1 + layout.texts;
        let mut spans = Vec::with_capacity(width);
        for text in std::iter::once(Some(fact.id)).chain(fact.texts.iter().copied()) {
            spans.push(text.map_or((1, 0), |text| {
                let start = self.bytes.len() as u32;
                self.bytes.extend_from_slice(text);
                (start, self.bytes.len() as u32)
            }));
        }
        self.spans.splice(at * width..at * width, spans);
    }

    /// Cuts the events from `at` on off.
    fn split(&mut self, layout: &Layout, at: usize) -> Chunk {
        let mut rest = Chunk {
            times: self.times.split_off(at),
            numbers: self.numbers.split_off(at * layout.numbers),
            bits: self.bits.split_off(at * layout.words()),
            silents: self.silents.split_off((at * layout.rule_words()).min(self.silents.len())),
            is_changed: true,
            ..Chunk::default()
        };
        self.is_changed = true;
        let spans = self.spans.split_off(at * (1 + layout.texts));
        let moved = |chunk: &Chunk, spans: Vec<(u32, u32)>| {
            let mut bytes = Vec::new();
            let spans = spans.into_iter().map(|(start, end)| {
                if start > end {
                    return (1, 0);
                }
                let from = bytes.len() as u32;
                bytes.extend_from_slice(&chunk.bytes[start as usize..end as usize]);
                (from, bytes.len() as u32)
            });
            (spans.collect(), bytes)
        };
        (rest.spans, rest.bytes) = moved(self, spans);
        let own = std::mem::take(&mut self.spans);
        (self.spans, self.bytes) = moved(self, own);
        rest
    }

    fn text_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Takes over what the event at a place lacks and this fact of it has; of the conditions these. False when it lacks nothing.
    fn complete(&mut self, layout: &Layout, at: usize, fact: &Fact<'_>, conditions: &[bool]) -> bool {
        let mut is_new = false;
        let numbers = &mut self.numbers[at * layout.numbers..][..layout.numbers];
        for (number, known) in numbers.iter_mut().zip(fact.numbers).filter(|(number, _)| **number == ABSENT) {
            is_new |= *known != ABSENT;
            *number = *known;
        }
        for (i, text) in fact.texts.iter().enumerate() {
            let place = at * (1 + layout.texts) + 1 + i;
            if let (None, Some(text)) = (self.span(place), text) {
                let start = self.bytes.len() as u32;
                self.bytes.extend_from_slice(text);
                self.spans[place] = (start, self.bytes.len() as u32);
                is_new = true;
            }
        }
        for (i, truth) in fact.truths.iter().enumerate().filter(|(i, _)| conditions.get(*i) == Some(&true)) {
            let word = &mut self.bits[at * layout.words() + i / 64];
            if *truth == Truth::Yes && *word >> (i % 64) & 1 == 0 {
                *word |= 1 << (i % 64);
                is_new = true;
            }
        }
        self.is_changed |= is_new;
        is_new
    }
}

/// The kept events of one key.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub layout: Layout,
    /// The number of the first chunk.
    pub first: u32,
    pub chunks: VecDeque<Chunk>,
    pub count: usize,
    /// Bytes of ids and texts.
    pub text_bytes: usize,
    /// Some chunks have a column of rules that nobody is told by.
    has_silents: bool,
}

impl Kept {
    pub fn new(set: &Set) -> Kept {
        Kept {
            layout: set.layout,
            first: 0,
            chunks: VecDeque::new(),
            count: 0,
            text_bytes: 0,
            has_silents: false,
        }
    }

    pub fn start(&self) -> Place {
        Place { chunk: self.first, at: 0 }
    }

    /// The place after the last event.
    pub fn end(&self) -> Place {
        match self.chunks.back() {
            Some(last) => Place { chunk: self.first + self.chunks.len() as u32 - 1, at: last.len() as u32 },
            None => self.start(),
        }
    }

    pub fn chunk(&self, number: u32) -> &Chunk {
        &self.chunks[(number - self.first) as usize]
    }

    pub fn chunk_mut(&mut self, number: u32) -> &mut Chunk {
        &mut self.chunks[(number - self.first) as usize]
    }

    /// The same place, written as the begin of a chunk where it is the end of the one before.
    #[inline]
    pub fn normal(&self, place: Place) -> Place {
        let index = (place.chunk - self.first) as usize;
        if self.chunks.get(index).is_some_and(|chunk| place.at as usize == chunk.len())
            && index + 1 < self.chunks.len()
        {
            return Place { chunk: place.chunk + 1, at: 0 };
        }
        place
    }

    /// The place after this one, at which an event is.
    #[inline]
    pub fn after(&self, place: Place) -> Place {
        self.normal(Place { chunk: place.chunk, at: place.at + 1 })
    }

    /// The last event before a place for which a condition holds.
    pub fn last_before(&self, place: Place, when: Option<Condition>) -> Option<Place> {
        let mut before = self.before(place)?;
        while when.is_some_and(|when| !self.holds(before, when)) {
            before = self.before(before)?;
        }
        Some(before)
    }

    /// The event before a place.
    #[inline]
    pub fn before(&self, place: Place) -> Option<Place> {
        if place.at > 0 {
            return Some(Place { chunk: place.chunk, at: place.at - 1 });
        }
        (place.chunk > self.first)
            .then(|| Place { chunk: place.chunk - 1, at: self.chunk(place.chunk - 1).len() as u32 - 1 })
    }

    /// The events of a stretch.
    pub fn between(&self, from: Place, to: Place) -> impl Iterator<Item = Place> {
        let first = (from < to).then_some(from);
        std::iter::successors(first, move |place| Some(self.after(*place)).filter(|next| *next < to))
    }

    #[inline]
    pub fn time(&self, place: Place) -> i64 {
        self.chunk(place.chunk).times[place.at as usize]
    }

    pub fn id(&self, place: Place) -> &[u8] {
        self.chunk(place.chunk).id(&self.layout, place.at as usize)
    }

    #[inline]
    pub fn number(&self, place: Place, number: Number) -> i64 {
        self.chunk(place.chunk).numbers[place.at as usize * self.layout.numbers + usize::from(number.0)]
    }

    pub fn text(&self, place: Place, text: Text) -> Option<&[u8]> {
        self.chunk(place.chunk).span(place.at as usize * (1 + self.layout.texts) + 1 + usize::from(text.0))
    }

    #[inline]
    pub fn holds(&self, place: Place, condition: Condition) -> bool {
        self.bit(place, 0, usize::from(condition.0))
    }

    fn bit(&self, place: Place, word: usize, bit: usize) -> bool {
        let word = place.at as usize * self.layout.words() + word + bit / 64;
        self.chunk(place.chunk).bits[word] >> (bit % 64) & 1 == 1
    }

    fn set_bit(&mut self, place: Place, word: usize, bit: usize, is_set: bool) {
        let word = place.at as usize * self.layout.words() + word + bit / 64;
        let chunk = self.chunk_mut(place.chunk);
        let mask = 1 << (bit % 64);
        if (chunk.bits[word] & mask != 0) != is_set {
            chunk.bits[word] ^= mask;
            chunk.is_changed = true;
        }
    }

    /// Whether the event was a hit of a rule, and whether there is an alert of it.
    pub fn verdict(&self, place: Place, rule: usize) -> (bool, bool) {
        let (hits, words) = (self.layout.condition_words(), self.layout.rule_words());
        (self.bit(place, hits, rule), self.bit(place, hits + words, rule))
    }

    pub fn set_verdict(&mut self, place: Place, rule: usize, is_hit: bool, is_alert: bool) {
        let (hits, words) = (self.layout.condition_words(), self.layout.rule_words());
        self.set_bit(place, hits, rule, is_hit);
        self.set_bit(place, hits + words, rule, is_alert);
    }

    /// Whether the event was there before the rule: nobody is told what that says of it.
    pub fn is_silent(&self, place: Place, rule: usize) -> bool {
        let word = place.at as usize * self.layout.rule_words() + rule / 64;
        self.chunk(place.chunk).silents.get(word).is_some_and(|word| word >> (rule % 64) & 1 == 1)
    }

    /// Whether the rule does not look at the event at all: it was remembered for others. Written as an alert without a hit, which
    /// there is not otherwise.
    pub fn is_unseen(&self, place: Place, rule: usize) -> bool {
        self.is_silent(place, rule) && self.verdict(place, rule) == (false, true)
    }

    /// The event was there before all rules; only some of them look at it.
    pub fn hush(&mut self, place: Place, sees: impl Fn(usize) -> bool) {
        let Layout { rules, .. } = self.layout;
        let (words, at) = (self.layout.rule_words(), place.at as usize);
        self.has_silents = true;
        let chunk = self.chunk_mut(place.chunk);
        chunk.silents.resize(chunk.times.len() * words, 0);
        for rule in 0..rules {
            chunk.silents[at * words + rule / 64] |= 1 << (rule % 64);
        }
        (0..rules).for_each(|rule| self.set_verdict(place, rule, false, !sees(rule)));
    }

    /// Takes over what the event with the time and id of this fact lacks; false when there is none, or it lacks nothing.
    pub fn complete(&mut self, fact: &Fact<'_>, conditions: &[bool]) -> bool {
        let place = self.place_of(fact.time.ms(), fact.id);
        if place >= self.end() || self.time(place) != fact.time.ms() || self.id(place) != fact.id {
            return false; // a copy with another time
        }
        let layout = self.layout;
        let chunk = self.chunk_mut(place.chunk);
        let before = chunk.text_bytes();
        let is_new = chunk.complete(&layout, place.at as usize, fact, conditions);
        let added = chunk.text_bytes() - before;
        self.text_bytes += added;
        is_new
    }

    /// Where an event belongs.
    pub fn place_of(&self, time: i64, id: &[u8]) -> Place {
        let is_before = |place: Place| {
            self.time(place).cmp(&time).then_with(|| order_ids(self.id(place), id)) == Ordering::Less
        };
        // Most come at the end, or near it.
        let mut place = self.end();
        while place.at == 0 || !is_before(Place { chunk: place.chunk, at: 0 }) {
            if place.chunk == self.first {
                break;
            }
            place = Place { chunk: place.chunk - 1, at: self.chunk(place.chunk - 1).len() as u32 };
        }
        let (mut low, mut high) = (0, place.at);
        while low < high {
            let middle = low.midpoint(high);
            if is_before(Place { chunk: place.chunk, at: middle }) { low = middle + 1 } else { high = middle }
        }
        self.normal(Place { chunk: place.chunk, at: low })
    }

    /// Puts an event where it belongs. The second value is the place where a chunk was split in two, if one was: places from
    /// there on are others now.
    pub fn insert(&mut self, place: Place, fact: &Fact<'_>) -> (Place, Option<Place>) {
        self.count += 1;
        self.text_bytes += fact.id.len() + fact.texts.iter().flatten().map(|text| text.len()).sum::<usize>();
        let is_append = place == self.end();
        let mut place = place;
        if self.chunks.is_empty() || (is_append && place.at as usize >= CHUNK_EVENTS) {
            place = Place { chunk: self.first + self.chunks.len() as u32, at: 0 };
            self.chunks.push_back(Chunk::default());
        }
        let layout = self.layout;
        let chunk = self.chunk_mut(place.chunk);
        chunk.insert(&layout, place.at as usize, fact);
        if chunk.len() <= 2 * CHUNK_EVENTS {
            return (place, None);
        }
        let half = chunk.len() / 2;
        let rest = chunk.split(&layout, half);
        let index = (place.chunk - self.first) as usize + 1;
        self.chunks.insert(index, rest);
        self.chunks.iter_mut().skip(index).for_each(|chunk| chunk.is_changed = true);
        let split = Place { chunk: place.chunk, at: half as u32 };
        (moved(place, split), Some(split))
    }

    /// The kept events in these chunks.
    pub fn of(layout: Layout, first: u32, chunks: VecDeque<Chunk>) -> Kept {
        let count = chunks.iter().map(Chunk::len).sum();
        let text_bytes = chunks.iter().map(Chunk::text_bytes).sum();
        let has_silents = chunks.iter().any(|chunk| !chunk.silents.is_empty());
        Kept { layout, first, chunks, count, text_bytes, has_silents }
    }

    /// Memory, about: found without looking at the events.
    pub fn memory_bytes(&self) -> usize {
        let Layout { numbers, texts, .. } = self.layout;
        let silents = if self.has_silents { self.layout.rule_words() } else { 0 };
        let event_bytes = 8 * (1 + numbers + self.layout.words() + silents + 1 + texts);
        self.count * event_bytes + self.text_bytes + self.chunks.len() * size_of::<Chunk>()
    }

    /// Drops the first chunk.
    pub fn drop_first(&mut self) {
        if let Some(first) = self.chunks.pop_front() {
            self.count -= first.len();
            self.text_bytes -= first.text_bytes();
            self.first += 1;
        }
    }
}

/// Where a place is after a chunk was split.
pub(super) fn moved(place: Place, split: Place) -> Place {
    if place.chunk == split.chunk && place.at >= split.at {
        return Place { chunk: place.chunk + 1, at: place.at - split.at };
    }
    if place.chunk > split.chunk {
        return Place { chunk: place.chunk + 1, at: place.at };
    }
    place
}
