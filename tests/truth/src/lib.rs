//! The smallest engine: one lane, a store in memory, commits and crashes where a seed puts them.

pub mod card;

use std::collections::BTreeMap;
use std::sync::Arc;

use granary_cluster::{
    Applied, ByClock, Cause, Cells, CommitNo, Effects, Pipeline, Record, SourceId, StreamId,
};
use granary_core::{GrainId, SlotId, Timestamp, id::slot_of};
use granary_streams::plan::{Bundle, Mark};
use granary_streams::{Plan, Slots, run::Counts};

/// Slots of the cluster that tests pretend to be.
pub const SLOTS: u16 = 12;

/// One output record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// What made it.
    pub cause: Cause,
    /// Its identity.
    pub id: String,
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: String,
}

/// A record as it stands in a topic of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// When the log took it.
    pub appended_at: i64,
    /// Its bytes.
    pub value: Vec<u8>,
}

/// Runs a plan over records.
pub struct Driver {
    slots: Slots,
    store: BTreeMap<(u16, Vec<u8>), Vec<u8>>,
    /// The last commit of each slot.
    committed: Vec<u64>,
    effects: BTreeMap<u16, Effects>,
    /// What commits have published, by stream.
    pub sent: BTreeMap<StreamId, Vec<Sent>>,
    /// Calls of grains that commits have made.
    pub tells: Vec<(GrainId, String, Vec<u8>)>,
    /// Loads of cells so far.
    pub loads: u64,
    /// What the wall clock decided, by slots, for it to be taken again.
    pub decided: Vec<(u16, Vec<u8>)>,
    /// What comes to the roll-ups: for each a topic of as many partitions as slots.
    rolled: Vec<Vec<Topic>>,
    /// How far those were read, and how far as of the last commit.
    read: Vec<Vec<usize>>,
    read_committed: Vec<Vec<usize>>,
}

/// Keys and values of a partition.
type Topic = Vec<(Vec<u8>, Vec<u8>)>;

impl Driver {
    /// A new cluster.
    pub fn new(plan: Plan) -> Driver {
        let (rollups, slots) = (plan.rollups().count(), usize::from(SLOTS));
        Driver {
            rolled: vec![vec![Topic::new(); slots]; rollups],
            read: vec![vec![0; slots]; rollups],
            read_committed: vec![vec![0; slots]; rollups],
            slots: Slots::new(Arc::new(plan), SLOTS),
            store: BTreeMap::new(),
            committed: vec![0; usize::from(SLOTS)],
            effects: BTreeMap::new(),
            sent: BTreeMap::new(),
            tells: Vec::new(),
            loads: 0,
            decided: Vec::new(),
        }
    }

    /// Applies one record.
    pub fn record(&mut self, offset: u64, input: &Input) {
        self.record_of(0, offset, input);
    }

    /// A source has so many partitions, which feed all slots: said before the first record.
    pub fn fed_by(&mut self, source: u16, partitions: u32) {
        self.slots.fed_by(SourceId(source), partitions, false);
    }

    /// Applies one record of a source.
    pub fn record_of(&mut self, source: u16, offset: u64, input: &Input) {
        self.record_in(source, 0, offset, input);
    }

    /// Applies one record of a partition.
    pub fn record_in(&mut self, source: u16, partition: u32, offset: u64, input: &Input) {
        let record = Record {
            source: SourceId(source),
            partition,
            offset,
            appended_at: Timestamp(input.appended_at),
            key: None,
            value: &input.value,
        };
        let slot = self.slots.route(&record);
        let key = self.slots.routed_key(&record);
        assert!(key.is_empty() || slot_of(&key, SLOTS) == slot, "a stray record finds its slot by its key");
        self.until_done(slot, |slots, effects| {
            slots.apply(slot, &record, effects).expect("no handler fails")
        });
    }

    /// Applies what came to a roll-up in a slot, so many records at most; how many there were.
    pub fn roll(&mut self, rollup: usize, slot: u16, max: usize) -> usize {
        let source = self.slots.plan().rollup_source(rollup);
        let from = self.read[rollup][usize::from(slot)];
        let records: Topic =
            self.rolled[rollup][usize::from(slot)].iter().skip(from).take(max).cloned().collect();
        for (offset, (key, value)) in (from as u64..).zip(&records) {
            let record = Record {
                source,
                partition: u32::from(slot),
                offset,
                appended_at: Timestamp(0),
                key: Some(key),
                value,
            };
            assert_eq!(self.slots.route(&record), SlotId(slot), "a partition is a slot's");
            self.until_done(SlotId(slot), |slots, effects| {
                slots.apply(SlotId(slot), &record, effects).expect("no handler fails")
            });
        }
        self.read[rollup][usize::from(slot)] += records.len();
        records.len()
    }

    /// Judges by another revision of its rules from now on.
    pub fn revise(&mut self, stream: &str, revision: u64, bundle: &Bundle) {
        let plan = self.slots.plan();
        let revised = plan.revise(stream, revision, bundle).expect("rules that fit");
        plan.announce(&revised);
    }

    /// Hands a record over a second time, or a word of a second reading; the slots stand at `stood` in the first one.
    pub fn again(&mut self, mark: Mark, input: &Input, stood: u64) {
        let sources = self.slots.plan().sources.len() as u16;
        let record = Record {
            source: SourceId(2 * sources),
            partition: 0,
            offset: mark.offset(),
            appended_at: Timestamp(input.appended_at),
            key: None,
            value: &input.value,
        };
        let slot = self.slots.route(&record);
        self.slots.stands(slot, stood);
        self.until_done(slot, |slots, effects| {
            slots.apply(slot, &record, effects).expect("no handler fails")
        });
    }

    /// Sets one record aside.
    pub fn poison(&mut self, offset: u64, input: &Input) {
        let record = Record {
            source: SourceId(0),
            partition: 0,
            offset,
            appended_at: Timestamp(input.appended_at),
            key: None,
            value: &input.value,
        };
        let effects = self.effects.entry(0).or_default();
        self.slots.poison(SlotId(0), &record, "it made a handler panic", effects);
    }

    /// Wall-clock time passes at the end of the input.
    pub fn tick(&mut self, now: i64) {
        for slot in 0..SLOTS {
            self.until_done(SlotId(slot), |slots, effects| {
                slots.tick(SlotId(slot), Timestamp(now), clock_cause(), effects).expect("no handler fails")
            });
        }
    }

    /// Takes again what the wall clock decided in another life.
    pub fn replay(&mut self, decided: &[(u16, Vec<u8>)]) {
        for (slot, input) in decided {
            self.until_done(SlotId(*slot), |slots, effects| {
                slots.replay(SlotId(*slot), input, clock_cause(), effects).expect("no handler fails")
            });
        }
    }

    /// The input has ended.
    pub fn end(&mut self) {
        for slot in 0..SLOTS {
            self.until_done(SlotId(slot), |slots, effects| {
                slots.end(SlotId(slot), clock_cause(), effects).expect("no handler fails")
            });
        }
    }

    /// Applies a step, and what it made due.
    fn until_done(&mut self, slot: SlotId, step: impl FnMut(&mut Slots, &mut Effects) -> Applied) {
        let mut applied = self.until_applied(slot, step);
        while applied == Applied::More {
            applied = self.until_applied(slot, |slots, effects| {
                slots.go_on(slot, clock_cause(), effects).expect("no handler fails")
            });
        }
    }

    fn until_applied(
        &mut self,
        slot: SlotId,
        mut step: impl FnMut(&mut Slots, &mut Effects) -> Applied,
    ) -> Applied {
        let effects = self.effects.entry(slot.0).or_default();
        for _ in 0..10 {
            let before = effects.outbox.len();
            let applied = step(&mut self.slots, effects);
            if applied != Applied::Missing {
                assert!(effects.missing.is_empty());
                if let Some(ByClock::Input(input)) = effects.by_clock.take() {
                    self.decided.push((slot.0, input));
                }
                return applied;
            }
            assert_eq!(effects.outbox.len(), before, "what lacks cells changes nothing");
            for cell in std::mem::take(&mut effects.missing) {
                self.loads += 1;
                let value = self.store.get(&(slot.0, cell.clone())).map(Vec::as_slice);
                self.slots.supply(slot, &cell, value).expect("cells read back");
            }
        }
        panic!("cells are missing again and again");
    }

    /// Commits every slot.
    pub fn commit(&mut self) {
        for slot in 0..SLOTS {
            let n = self.committed[usize::from(slot)] + 1;
            let mut cells = Cells::default();
            self.slots.seal(SlotId(slot), CommitNo(n), &mut cells);
            for (cell, value) in cells.iter() {
                match value {
                    Some(value) => self.store.insert((slot, cell.to_vec()), value.to_vec()),
                    None => self.store.remove(&(slot, cell.to_vec())),
                };
            }
            self.committed[usize::from(slot)] = n;
            self.slots.acknowledged(SlotId(slot), CommitNo(n));
            let Some(effects) = self.effects.remove(&slot) else { continue };
            let rolled: Vec<StreamId> = self.slots.plan().rolled().collect();
            for entry in effects.outbox.entries() {
                if let Some(rollup) = rolled.iter().position(|stream| *stream == entry.stream) {
                    let (key, value) = (effects.outbox.key(entry), effects.outbox.value(entry));
                    let partition = usize::from(slot_of(key, SLOTS).0);
                    self.rolled[rollup][partition].push((key.to_vec(), value.to_vec()));
                    continue;
                }
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("outputs are text");
                self.sent.entry(entry.stream).or_default().push(Sent {
                    cause: entry.cause,
                    id: text(effects.outbox.id(entry)),
                    key: effects.outbox.key(entry).to_vec(),
                    value: text(effects.outbox.value(entry)),
                });
            }
            let tells = effects.tells.into_iter();
            self.tells.extend(tells.map(|(grain, method, arguments)| (grain, method.to_string(), arguments)));
        }
        self.read_committed.clone_from(&self.read);
    }

    /// All memory is lost; what was not committed is gone.
    pub fn crash(&mut self) {
        self.effects.clear();
        self.read.clone_from(&self.read_committed);
        (0..SLOTS).for_each(|slot| self.slots.close(SlotId(slot)));
    }

    /// Clean state leaves memory.
    pub fn evict(&mut self) {
        self.slots.evict(0);
    }

    /// Bytes of memory.
    pub fn memory_bytes(&self) -> usize {
        self.slots.memory_bytes()
    }

    /// Asks a built-in grain; an error's message otherwise.
    pub fn ask(&mut self, grain: &str) -> Result<serde_json::Value, String> {
        let grain = GrainId::parse(grain).expect("a grain's identity");
        let slot = grain.slot(SLOTS);
        for _ in 0..10 {
            let mut missing = Vec::new();
            let answer = self.slots.ask(slot, &grain, "get", &[], &mut missing);
            match answer.map_err(|error| error.message().to_owned())? {
                Some(bytes) => {
                    let value = rmpv::decode::read_value(&mut &bytes[..]).expect("an answer is MessagePack");
                    return Ok(serde_json::to_value(value).expect("an answer is like JSON"));
                }
                None => {
                    for cell in missing {
                        let value = self.store.get(&(slot.0, cell.clone())).map(Vec::as_slice);
                        self.slots.supply(slot, &cell, value).expect("cells read back");
                    }
                }
            }
        }
        panic!("cells are missing again and again");
    }

    /// The counts that commits have stored.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for ((_, cell), value) in &self.store {
            if cell.starts_with(granary_streams::run::counts::PREFIX) {
                counts.add_cell(value).expect("counts read back");
            }
        }
        counts
    }

    /// What was published on a stream.
    pub fn stream(&self, name: &str) -> &[Sent] {
        let stream = self.slots.stream(name).expect("a stream of the plan");
        self.sent.get(&stream).map_or(&[], Vec::as_slice)
    }

    /// The last row of each result of a sink, withdrawn ones left out: as lines.
    pub fn results(&self, sink: &str) -> String {
        let mut last: BTreeMap<&str, &str> = BTreeMap::new();
        for sent in self.stream(sink) {
            let window = sent.id.split_once('#').map_or(sent.id.as_str(), |(window, _)| window);
            last.insert(window, &sent.value);
        }
        let standing = last.into_values().filter(|row| !row.contains("\"reason\":\"delete\""));
        standing.map(|row| format!("{row}\n")).collect()
    }
}

fn clock_cause() -> Cause {
    Cause { source: SourceId(u16::MAX), partition: 0, offset: 0, index: 0 }
}

/// Runs a plan over all records: commits and crashes come as the seed says, none with seed 0.
pub fn run(plan: Plan, records: &[Input], seed: u64) -> Driver {
    let mut driver = Driver::new(plan);
    let mut draw = Draw(seed);
    let (mut at, mut committed, mut crashes) = (0, 0, 0);
    while at < records.len() {
        driver.record(at as u64, &records[at]);
        at += 1;
        if seed == 0 {
            continue;
        }
        match draw.below(400) {
            0 if crashes < 20 => {
                driver.crash();
                (at, crashes) = (committed, crashes + 1);
            }
            1..=8 => {
                driver.commit();
                committed = at;
            }
            9 => driver.evict(),
            _ => {}
        }
    }
    driver.end();
    driver.commit();
    driver
}

/// Runs a plan over records of its sources, in the order in which they are read: commits, crashes and evictions come as the seed
/// says, none with seed 0.
pub fn run_sources(plan: Plan, records: &[(u16, Input)], seed: u64) -> Driver {
    let mut driver = Driver::new(plan);
    let mut draw = Draw(seed);
    let offset = |at: usize| records[..at].iter().filter(|(of, _)| *of == records[at].0).count() as u64;
    let (mut at, mut committed, mut crashes) = (0, 0, 0);
    while at < records.len() {
        driver.record_of(records[at].0, offset(at), &records[at].1);
        at += 1;
        if seed == 0 {
            continue;
        }
        match draw.below(40) {
            0 if crashes < 20 => {
                driver.crash();
                (at, crashes) = (committed, crashes + 1);
            }
            1..=6 => {
                driver.commit();
                committed = at;
            }
            7..=9 => (0..2).for_each(|_| driver.evict()),
            _ => {}
        }
    }
    driver.end();
    driver.commit();
    driver
}

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Draw(pub u64);

impl Draw {
    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// The lines of a file as records of a topic, one second apart.
pub fn lines(file: &[u8]) -> Vec<Input> {
    let mut lines: Vec<&[u8]> = file.split(|byte| *byte == b'\n').collect();
    if lines.last().is_some_and(|last| last.is_empty()) {
        lines.pop();
    }
    let input = |(i, line): (usize, &&[u8])| Input { appended_at: i as i64 * 1_000, value: line.to_vec() };
    lines.iter().enumerate().map(input).collect()
}
