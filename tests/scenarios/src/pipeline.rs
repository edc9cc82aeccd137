//! A small pipeline: each record of the topic `in` tells the grain of its key, and leaves a line in the stream `out`.
//!
//! A record is text. `panic` and `fail` in it make the pipeline itself panic or refuse it.

use std::sync::Arc;

use granary_cluster::{
    Applied, Batch, Cause, Cells, CommitNo, Effects, Failure, Foreseen, Log, Pipeline, Record, StreamId,
};
use granary_core::id::{positive_murmur2, slot_of};
use granary_core::{Error, ErrorKind, GrainId, Result, SlotId, Timestamp, codec};
use granary_engine::MakePipeline;

/// Which method of which kind is told.
#[derive(Clone, Copy, Debug)]
pub struct Teller {
    /// The kind.
    pub kind: &'static str,
    /// The method; its only argument is the record's text.
    pub method: &'static str,
    /// Tells the grain of another key, in some other slot, instead of the record's.
    pub elsewhere: Option<&'static str>,
}

impl Teller {
    /// Tells `kind` through `method`.
    pub fn new(kind: &'static str, method: &'static str) -> Teller {
        Teller { kind, method, elsewhere: None }
    }

    /// Makes the pipeline of each lane.
    pub fn maker(self, slots: u16) -> MakePipeline {
        Arc::new(move || Box::new(Telling { teller: self, slots, streams: streams() }))
    }
}

fn streams() -> Vec<String> {
    crate::silo::STREAMS.iter().map(|name| (*name).to_string()).collect()
}

const OUT: StreamId = StreamId(0);
const POISONED: StreamId = StreamId(1);

struct Telling {
    teller: Teller,
    slots: u16,
    streams: Vec<String>,
}

impl Telling {
    fn emit(&self, stream: StreamId, record: &Record<'_>, text: &str, effects: &mut Effects) {
        let Record { source, partition, offset, .. } = *record;
        let cause = Cause { source, partition, offset, index: 0 };
        let (key, time) = (record.key.unwrap_or_default(), record.appended_at);
        let id = format!("{partition}/{offset}");
        effects.outbox.push(
            stream,
            cause,
            time,
            key,
            |out| out.extend_from_slice(id.as_bytes()),
            |out| codec::encode_named(text, out).expect("text can be encoded"),
        );
    }
}

/// The text of a record or an output.
pub fn text(value: &[u8]) -> String {
    codec::from_bytes::<String>(value).unwrap_or_else(|_| String::from_utf8_lossy(value).into_owned())
}

/// Appends a record where the default partitioner puts it; its offset.
pub fn append(log: &dyn Log, topic: &str, partitions: u32, key: &str, value: &str) -> u64 {
    let mut batch = Batch::default();
    batch.push(0, Timestamp(0), Some(key.as_bytes()), value.as_bytes());
    let partition = positive_murmur2(key.as_bytes()) % partitions;
    log.append(topic, partition, &batch).expect("the topic exists")
}

impl Pipeline for Telling {
    fn route(&mut self, record: &Record<'_>) -> SlotId {
        slot_of(record.key.unwrap_or_default(), self.slots)
    }

    fn apply(&mut self, _: SlotId, record: &Record<'_>, effects: &mut Effects) -> Result<Applied, Failure> {
        let text = text(record.value);
        self.emit(OUT, record, &text, effects);
        assert!(!text.contains("panic"), "the pipeline panics at `{text}`");
        if text.contains("fail") {
            return Err(Failure { message: format!("the pipeline refuses `{text}`") });
        }
        let own = String::from_utf8_lossy(record.key.unwrap_or_default());
        let key = self.teller.elsewhere.unwrap_or(&own);
        let arguments = codec::to_bytes(&text).expect("text can be encoded");
        effects.tells.push((GrainId::new(self.teller.kind, key), self.teller.method.into(), arguments));
        Ok(Applied::Done)
    }

    fn foresee(&mut self, _: usize, slot: SlotId, record: &Record<'_>, foreseen: &mut Foreseen) {
        let own = String::from_utf8_lossy(record.key.unwrap_or_default());
        foreseen.grains.push((slot, GrainId::new(self.teller.kind, &*own)));
    }

    fn tells_grains(&self) -> bool {
        true
    }

    fn supply(&mut self, _: SlotId, _: &[u8], _: Option<&[u8]>) -> Result<()> {
        Ok(())
    }

    fn poison(&mut self, _: SlotId, record: &Record<'_>, reason: &str, effects: &mut Effects) {
        let line = format!("{}: {reason}", text(record.value));
        self.emit(POISONED, record, &line, effects);
    }

    fn tick(&mut self, _: SlotId, _: Timestamp, _: Cause, _: &mut Effects) -> Result<Applied, Failure> {
        Ok(Applied::Done)
    }

    fn end(&mut self, _: SlotId, _: Cause, _: &mut Effects) -> Result<Applied, Failure> {
        Ok(Applied::Done)
    }

    fn seal(&mut self, _: SlotId, _: CommitNo, _: &mut Cells) {}

    fn acknowledged(&mut self, _: SlotId, _: CommitNo) {}

    fn close(&mut self, _: SlotId) {}

    fn ask(
        &mut self,
        _: SlotId,
        grain: &GrainId,
        _: &str,
        _: &[u8],
        _: &mut Vec<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>> {
        Err(Error::new(ErrorKind::NotFound, format!("there is no {grain}")))
    }

    fn memory_bytes(&self) -> usize {
        0
    }

    fn evict(&mut self, _: usize) {}

    fn streams(&self) -> &[String] {
        &self.streams
    }
}
