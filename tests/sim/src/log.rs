//! The simulated log: one output stream and one marker for each slot, transactions by transactional id.

use std::collections::{BTreeMap, BTreeSet};

use granary_core::SlotId;

use granary_cluster::{Cause, Entry, Marker, Outbox, StreamId, TxId};

/// One visible output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Where it went.
    pub stream: StreamId,
    /// What made it.
    pub cause: Cause,
    /// Its bytes.
    pub value: Vec<u8>,
}

/// What one slot puts into a transaction.
#[derive(Clone, Debug)]
pub struct Part {
    /// Which slot.
    pub slot: SlotId,
    /// Its outputs, in order.
    pub outputs: Vec<Output>,
    /// Its marker.
    pub marker: Marker,
}

#[derive(Clone, Debug)]
struct Open {
    parts: Vec<Part>,
    staged: bool,
}

#[derive(Clone, Debug, Default)]
struct Producer {
    generation: u64,
    open: Option<Open>,
}

/// Another producer with the same id was initialised since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerFenced;

/// One init of an id, as it was written down.
pub type Registration = (TxId, u64);

/// The log.
#[derive(Clone, Debug)]
pub struct Log {
    producers: BTreeMap<TxId, Producer>,
    registered: BTreeSet<Registration>,
    /// Committed outputs, by slot.
    pub visible: Vec<Vec<Output>>,
    /// Committed markers, by slot.
    pub markers: Vec<Option<Marker>>,
}

impl Log {
    /// For so many slots.
    pub fn new(slots: usize) -> Log {
        Log {
            producers: BTreeMap::new(),
            registered: BTreeSet::new(),
            visible: vec![Vec::new(); slots],
            markers: vec![None; slots],
        }
    }

    /// `init_transactions`: whatever was open is aborted, who was before is fenced.
    pub fn init(&mut self, id: TxId) -> u64 {
        let producer = self.producers.entry(id).or_default();
        producer.open = None;
        producer.generation += 1;
        producer.generation
    }

    /// Writes down that the id was initialised.
    pub fn register(&mut self, id: TxId, generation: u64) {
        self.registered.insert((id, generation));
    }

    /// What is written down.
    pub fn registered(&self) -> Vec<Registration> {
        self.registered.iter().copied().collect()
    }

    /// Lets go of what was written down.
    pub fn forget(&mut self, registered: &[Registration]) {
        self.registered.retain(|registration| !registered.contains(registration));
    }

    fn of(&mut self, id: TxId, generation: u64) -> Result<&mut Producer, ProducerFenced> {
        self.producers.get_mut(&id).filter(|p| p.generation == generation).ok_or(ProducerFenced)
    }

    /// Begins a transaction and sends its outputs.
    pub fn begin(&mut self, id: TxId, generation: u64, parts: Vec<Part>) -> Result<(), ProducerFenced> {
        self.of(id, generation)?.open = Some(Open { parts, staged: false });
        Ok(())
    }

    /// Sends the markers.
    pub fn stage(&mut self, id: TxId, generation: u64) -> Result<(), ProducerFenced> {
        if let Some(open) = &mut self.of(id, generation)?.open {
            open.staged = true;
        }
        Ok(())
    }

    /// Commits it all: what became visible.
    pub fn end(&mut self, id: TxId, generation: u64) -> Result<Vec<Part>, ProducerFenced> {
        let open = self.of(id, generation)?.open.take().ok_or(ProducerFenced)?;
        for part in &open.parts {
            let slot = usize::from(part.slot.0);
            self.visible[slot].extend(part.outputs.iter().cloned());
            self.markers[slot] = Some(part.marker.clone());
        }
        Ok(open.parts)
    }

    /// Aborts it.
    pub fn abort(&mut self, id: TxId, generation: u64) -> Result<(), ProducerFenced> {
        self.of(id, generation)?.open = None;
        Ok(())
    }

    /// Whether a transaction of this id is open.
    pub fn is_open(&self, id: TxId) -> bool {
        self.producers.get(&id).is_some_and(|producer| producer.open.is_some())
    }

    /// The ids whose open transactions make a stable read of the slot's marker wait.
    pub fn blocks(&self, slot: SlotId) -> Vec<TxId> {
        let holds = |p: &Producer| {
            p.open.as_ref().is_some_and(|open| open.staged && open.parts.iter().any(|part| part.slot == slot))
        };
        self.producers.iter().filter(|(_, p)| holds(p)).map(|(id, _)| *id).collect()
    }
}

/// The outputs of an outbox.
pub fn outputs(outbox: &Outbox) -> Vec<Output> {
    let output = |entry: &Entry| Output {
        stream: entry.stream,
        cause: entry.cause,
        value: outbox.value(entry).to_vec(),
    };
    outbox.entries().iter().map(output).collect()
}
