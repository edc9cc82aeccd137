//! What Redis and Kafka alone take of an alert's way: commits stored, transactions ended, their records read. Two lanes
//! ask for both at a pace, with nothing between them: no pipeline, no source, no load beside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use granary_cluster::slot::{Pending, Publication};
use granary_cluster::{
    Batch, Cause, Cells, Commit, CommitId, CommitNo, Ended, Epoch, Incarnation, Log as _, Marker, Outbox,
    Position, Program, Script, SourceId, Store, StreamId, TxId, Verdict,
};
use granary_core::{Error, ErrorKind, Result, SlotId, Timestamp};
use granary_engine::MakeProducer;
use granary_kafka::{KafkaLog, Sources};

use crate::backing::Backing;

use super::callers::panicked;
use super::latency::{PARTITIONS, PIPELINE};
use super::servers::{Servers, Site};
use super::{Figure, tell_lengths};

/// A lane asks so often.
const EVERY: Duration = Duration::from_millis(25);
/// Nothing is measured before: the broker's and the client's first transactions take longer.
const WARM_UP: Duration = Duration::from_secs(5);
/// Cells that a commit of a slot changes, and bytes of each.
const CELLS: u64 = 3;
const CELL_BYTES: usize = 120;
/// Bytes of an output; of the slots of a lane each has one in a transaction.
const OUTPUT_BYTES: usize = 600;
/// When the last record has not been read within this, it was lost.
const READ_MAX: Duration = Duration::from_secs(10);

/// What to measure, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// So long each.
    pub measured: Duration,
    /// Where.
    pub servers: Servers,
}

/// Measures, telling figures.
pub async fn run(options: Options, mut tell: impl FnMut(&Figure)) -> Result<()> {
    let site = Site::new(&options.servers)?;
    site.kafka.create(&site.output, PARTITIONS)?;
    let assembly = site.assembly(PIPELINE, PARTITIONS)?;
    let backing = Backing::open(&site.settings, &assembly)?;
    let lanes = assembly.lanes();
    let make = backing.producer(vec![site.output.clone()], Vec::new()).expect("it is on Kafka");
    let floor = Floor {
        store: backing.store.clone(),
        make,
        me: backing.me,
        lanes,
        slots: assembly.slots,
        until: WARM_UP + options.measured,
    };
    let (kafka, output) = (site.kafka.clone(), site.output.clone());
    let measured = tokio::task::spawn_blocking(move || -> Result<_> {
        Ok((floor.on_each_lane(Floor::commits)?, floor.publish(&kafka, &output)?))
    });
    let (commits, (ended, read)) = measured.await.map_err(panicked)??;
    let each = format!("{lanes} lanes, each {} slots every {EVERY:?}", assembly.slots / lanes);
    let note = format!("{each}, {CELLS} cells of {CELL_BYTES} bytes a slot, fsync");
    tell_lengths("commit stored", commits, &note, &mut tell);
    let note = format!("{each}, an output of {OUTPUT_BYTES} bytes a slot");
    tell_lengths("transaction ended", ended, &note, &mut tell);
    tell_lengths("transaction read", read, &note, &mut tell);
    Ok(())
}

struct Floor {
    store: Arc<dyn Store>,
    make: MakeProducer,
    me: Incarnation,
    lanes: u16,
    slots: u16,
    until: Duration,
}

impl Floor {
    /// Measures on a thread for each lane; milliseconds.
    fn on_each_lane(&self, measure: impl Fn(&Floor, u16) -> Result<Vec<f64>> + Sync) -> Result<Vec<f64>> {
        std::thread::scope(|scope| {
            let measure = &measure;
            let lanes: Vec<_> =
                (0..self.lanes).map(|lane| scope.spawn(move || measure(self, lane))).collect();
            let mut all = Vec::new();
            for lane in lanes {
                let of_lane =
                    lane.join().unwrap_or_else(|_| Err(Error::new(ErrorKind::Poisoned, "a lane panicked")));
                all.extend(of_lane?);
            }
            Ok(all)
        })
    }

    fn slots_of(&self, lane: u16) -> impl Iterator<Item = SlotId> {
        (lane..self.slots).step_by(usize::from(self.lanes)).map(SlotId)
    }

    fn txid(&self, lane: u16) -> TxId {
        TxId { incarnation: self.me, lane }
    }

    /// Commits of all slots of a lane, one after the other, and how long each took.
    fn commits(&self, lane: u16) -> Result<Vec<f64>> {
        let run = self.store.run();
        let acquire = |slot| Script::Acquire {
            slot,
            me: self.me,
            txid: self.txid(lane),
            expected: (Incarnation(0), Epoch(0)),
            epoch: Epoch(1),
            run,
            program: Program::default(),
        };
        self.submit(self.slots_of(lane).map(acquire).collect())?;
        let mut number = 0;
        self.paced(|| {
            number += 1;
            let scripts = self.slots_of(lane).map(|slot| self.commit(slot, CommitNo(number))).collect();
            let began = Instant::now();
            self.submit(scripts)?;
            Ok(began.elapsed())
        })
    }

    fn commit(&self, slot: SlotId, n: CommitNo) -> Script {
        let mut cells = Cells::default();
        for cell in 0..CELLS {
            let key = (n.0 * CELLS + cell) % 1_000;
            cells.put(|out| out.extend(key.to_be_bytes()), |out| out.extend([7; CELL_BYTES]));
        }
        Script::Commit(Arc::new(Commit {
            slot,
            epoch: Epoch(1),
            n,
            id: CommitId { incarnation: self.me, epoch: Epoch(1), n },
            cells,
            positions: vec![position(n.0)],
            outbox: Outbox::default(),
            trim: CommitNo(0),
        }))
    }

    fn submit(&self, scripts: Vec<Script>) -> Result<()> {
        let (tell, told) = channel();
        self.store.submit(scripts, Box::new(move |replies| drop(tell.send(replies))));
        let closed = |_| Error::new(ErrorKind::Closed, "the store has ended");
        match told.recv().map_err(closed)??.iter().all(|reply| reply.verdict == Verdict::Done) {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Fenced, "somebody else writes these slots")),
        }
    }

    /// Transactions of all lanes beside a reader: how long until each has ended, and until its outputs were read.
    fn publish(&self, kafka: &Arc<KafkaLog>, output: &str) -> Result<(Vec<f64>, Vec<f64>)> {
        let (began, sent, is_over) = (Instant::now(), AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| read(kafka, output, began, &sent, &is_over));
            let ended = self.on_each_lane(|floor, lane| floor.transactions(lane, began, &sent));
            is_over.store(true, Ordering::SeqCst);
            let read = reader.join();
            let read =
                read.unwrap_or_else(|_| Err(Error::new(ErrorKind::Poisoned, "the reader panicked")))?;
            Ok((ended?, read))
        })
    }

    fn transactions(&self, lane: u16, began: Instant, sent: &AtomicU64) -> Result<Vec<f64>> {
        let mut producer = (self.make)(self.txid(lane));
        let (tell, told) = channel();
        let closed = |_| Error::new(ErrorKind::Closed, "the publisher has ended");
        let inited = tell.clone();
        producer.init(Box::new(move |done| drop(inited.send(done.map(|()| Ended::Done)))));
        told.recv().map_err(closed)??;
        let mut number = 0;
        self.paced(|| {
            number += 1;
            let now = began.elapsed();
            let publications = self.slots_of(lane).map(|slot| (slot, self.publication(lane, number, now)));
            let (since, ended) = (Instant::now(), tell.clone());
            producer.publish(publications.collect(), Box::new(move |end| drop(ended.send(Ok(end)))));
            match told.recv().map_err(closed)?? {
                Ended::Done => {
                    sent.fetch_add(self.slots_of(lane).count() as u64, Ordering::SeqCst);
                    Ok(since.elapsed())
                }
                other => Err(Error::new(ErrorKind::Unavailable, format!("a transaction ended as {other:?}"))),
            }
        })
    }

    /// An output with the time it is sent at, in microseconds, and the marker.
    fn publication(&self, lane: u16, number: u64, now: Duration) -> Publication {
        let (n, mut outbox) = (CommitNo(number), Outbox::default());
        let cause = Cause { source: SourceId(0), partition: 0, offset: number, index: 0 };
        let value = |out: &mut Vec<u8>| {
            out.extend((now.as_micros() as u64).to_be_bytes());
            out.resize(out.len() + OUTPUT_BYTES - 8, b'x');
        };
        let time = Timestamp(1_700_000_000_000);
        outbox.push(StreamId(0), cause, time, &number.to_be_bytes(), |out| out.extend(b"id"), value);
        let marker = Marker { n, epoch: Epoch(1), txid: self.txid(lane), positions: vec![position(number)] };
        Publication { commits: vec![Pending::stored(n, Arc::new(outbox))], marker }
    }

    /// Does something again and again at the pace; milliseconds of each after the warm-up.
    fn paced(&self, mut once: impl FnMut() -> Result<Duration>) -> Result<Vec<f64>> {
        let (began, mut lengths) = (Instant::now(), Vec::new());
        let mut due = Duration::ZERO;
        while began.elapsed() < self.until {
            let took = once()?;
            if began.elapsed() > WARM_UP {
                lengths.push(took.as_secs_f64() * 1e3);
            }
            due = (due + EVERY).max(began.elapsed());
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
        Ok(lengths)
    }
}

fn position(offset: u64) -> Position {
    Position { source: SourceId(0), partition: 0, offset }
}

/// Reads committed outputs until it has all that were sent; how long each was on its way.
fn read(
    log: &KafkaLog,
    topic: &str,
    began: Instant,
    sent: &AtomicU64,
    is_over: &AtomicBool,
) -> Result<Vec<f64>> {
    let sources = Sources::new(log.settings().clone(), None);
    let mut readers: Vec<_> = (0..PARTITIONS).map(|partition| (sources.open(topic, partition), 0)).collect();
    let (mut lengths, mut seen, mut batch, mut since) = (Vec::new(), 0, Batch::default(), Instant::now());
    loop {
        let is_last = is_over.load(Ordering::SeqCst);
        if is_last && seen >= sent.load(Ordering::SeqCst) {
            return Ok(lengths);
        }
        if is_last && since.elapsed() > READ_MAX {
            return Err(Error::new(ErrorKind::Timeout, format!("only {seen} outputs have come")));
        }
        for (reader, next) in &mut readers {
            batch.clear();
            reader.read(*next, 1 << 20, &mut batch)?;
            let now = began.elapsed();
            for record in batch.iter(SourceId(0), 0) {
                let sent = record.value.first_chunk().map_or(0, |sent| u64::from_be_bytes(*sent));
                let took = now.saturating_sub(Duration::from_micros(sent));
                if now > WARM_UP {
                    lengths.push(took.as_secs_f64() * 1e3);
                }
                (*next, seen, since) = (record.offset + 1, seen + 1, Instant::now());
            }
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}
