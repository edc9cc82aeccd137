//! Turns, calls, activations and idle grains.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::Poll;

use granary_cluster::{
    Cells, Commit, CommitId, CommitNo, Epoch, Incarnation, Outbox, Program, Script, Store, TxId,
};
use granary_core::{Cx, Error, ErrorKind, Grain, GrainId, Key, Result, SlotId, codec, time::hours};
use granary_engine::{Config, Engine, Handle};
use granary_macros::grain;
use granary_store::{Durability, Embedded, Options};
use serde::{Deserialize, Serialize};

use crate::clock::SystemClock;

use super::{Figure, Scratch, Watch, resident_bytes};

const SLOTS: u16 = 96;
/// Calls between two rests of a driver: commits are sealed while it rests.
const CALLS_PER_REST: u64 = 4_096;
/// Cells a preloading commit holds.
const PRELOAD_CELLS: u64 = 50_000;

/// The measured grain: eight bytes of state.
#[derive(Default, Serialize, Deserialize)]
struct Counter {
    total: u64,
}

#[grain(crate = granary_core, idle = "1d")]
impl Counter {
    fn add(&mut self, n: u64) -> u64 {
        self.total += n;
        self.total
    }

    fn total(&self) -> u64 {
        self.total
    }
}

/// Calls counters from inside a lane.
#[derive(Default, Serialize, Deserialize)]
struct Driver {}

#[grain(crate = granary_core, volatile, turn_max = "1d")]
impl Driver {
    /// Adds to counters of its own slot, in turn, through references made once.
    async fn add(&self, counters: u64, calls: u64, cx: &mut Cx) -> Result<u64> {
        let routing_key = cx.key().routing_key().into_owned();
        let references: Vec<_> = (0..counters)
            .map(|i| cx.grain::<Counter>(Key::from_segments([routing_key.as_str(), i.to_string().as_str()])))
            .collect();
        let mut sum = 0;
        for call in 0..calls {
            sum += references[(call % counters) as usize].add(1).await?;
            if call % CALLS_PER_REST == 0 {
                rest().await;
            }
        }
        Ok(sum)
    }

    /// Reads counters of its own slot that were never called before.
    async fn touch(&self, from: u64, calls: u64, cx: &mut Cx) -> Result<u64> {
        let routing_key = cx.key().routing_key().into_owned();
        let mut sum = 0;
        for i in from..from + calls {
            let key = Key::parse(&format!("{routing_key}/{i}"));
            sum += cx.grain::<Counter>(key).total().await?;
            if i % CALLS_PER_REST == 0 {
                rest().await;
            }
        }
        Ok(sum)
    }

    /// Reads one counter of another slot again and again.
    async fn read(&self, counter: String, calls: u64, cx: &mut Cx) -> Result<u64> {
        let reference = cx.grain::<Counter>(Key::parse(&counter));
        let mut sum = 0;
        for _ in 0..calls {
            sum += reference.total().await?;
        }
        Ok(sum)
    }
}

/// Lets the lane do everything else once.
async fn rest() {
    let mut rested = false;
    poll_fn(|context| {
        if std::mem::replace(&mut rested, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn start(store: Arc<dyn Store>, lanes: u16) -> Result<Engine> {
    let mut config =
        Config::new(store, Arc::new(SystemClock::start()), vec![Counter::info(), Driver::info()]);
    config.slots = SLOTS;
    config.lanes = lanes;
    config.turn_max = hours(24);
    config.memory_bytes_max = usize::MAX;
    Engine::start(config)
}

fn open(scratch: &Scratch) -> Result<Arc<Embedded>> {
    Embedded::open(&scratch.0, Options::new(SLOTS).durability(Durability::Fsync))
}

/// One routing key of each slot, by slot.
fn routing_keys() -> Vec<String> {
    let mut keys = vec![String::new(); usize::from(SLOTS)];
    let mut left = keys.len();
    for i in 0_u64.. {
        let name = format!("r{i}");
        let slot = GrainId::new("Counter", name.as_str()).slot(SLOTS);
        let place = &mut keys[usize::from(slot.0)];
        if place.is_empty() {
            *place = name;
            left -= 1;
            if left == 0 {
                break;
            }
        }
    }
    keys
}

/// All figures. `big` also measures 10 million grains.
pub async fn all(big: bool, mut tell: impl FnMut(&Figure)) -> Result<()> {
    let cores = crate::assembly::cores();
    // idle grains first: memory that another measurement has left would hide theirs
    let crowds: &[u64] = if big { &[10_000_000] } else { &[1_000_000] };
    for grains in crowds {
        for figure in idle(*grains, cores).await? {
            tell(&figure);
        }
    }
    tell(&same_slot(20_000_000).await?);
    tell(&cross_lane(cores, 4_000_000).await?);
    let others = if big { 10_000_000 } else { 1_000_000 };
    tell(&activation(others, 2_000_000, cores).await?);
    Ok(())
}

/// Turns that change a field, through typed references, with commits, on one lane.
async fn same_slot(calls: u64) -> Result<Figure> {
    const COUNTERS: u64 = 1_000;
    let scratch = Scratch::make("turns")?;
    let engine = start(open(&scratch)?, 1)?;
    let handle = engine.handle();
    handle.grain::<Driver>("warm").add(COUNTERS, calls / 20).timeout(hours(1)).await?;
    let (before, watch) = (handle.stats().commits, Watch::start());
    handle.grain::<Driver>("d").add(COUNTERS, calls).timeout(hours(1)).await?;
    let commits = handle.stats().commits - before;
    let note = format!("one lane, {calls} turns over {COUNTERS} grains, {commits} commits, fsync");
    let figure = watch.rate("same-slot turn that changes a field", calls, note);
    engine.stop().await;
    Ok(figure)
}

/// Reads of grains of another lane, from drivers on every lane.
async fn cross_lane(lanes: u16, calls: u64) -> Result<Figure> {
    const DRIVERS_PER_SLOT: u64 = 4;
    let scratch = Scratch::make("lanes")?;
    let engine = start(open(&scratch)?, lanes)?;
    let handle = engine.handle();
    let keys = routing_keys();
    let drivers = u64::from(SLOTS) * DRIVERS_PER_SLOT;
    let each = calls / drivers;
    let watch = Watch::start();
    let mut answers = Vec::new();
    for slot in 0..usize::from(SLOTS) {
        // the next slot is on another lane where there is one
        let other = &keys[(slot + 1) % keys.len()];
        for driver in 0..DRIVERS_PER_SLOT {
            let key = Key::from_segments([keys[slot].as_str(), driver.to_string().as_str()]);
            let call = handle.grain::<Driver>(key).read(format!("{other}/{driver}"), each).timeout(hours(1));
            answers.push(tokio::spawn(call.into_future()));
        }
    }
    for answer in answers {
        answer.await.map_err(|e| Error::new(ErrorKind::Closed, e.to_string()))??;
    }
    let note = format!("{lanes} lanes, {drivers} calls in flight, clean grains");
    let figure = watch.rate("cross-lane call", each * drivers, note);
    engine.stop().await;
    Ok(figure)
}

/// Activations of new durable grains, while the store holds so many others.
async fn activation(others: u64, calls: u64, lanes: u16) -> Result<Figure> {
    let scratch = Scratch::make("activation")?;
    let keys = routing_keys();
    let store = open(&scratch)?;
    preload(&store, &keys, others)?;
    let engine = start(store, lanes)?;
    let watch = Watch::start();
    let done = touch_all(&engine.handle(), &keys, others, calls).await?;
    let note = format!("first read of a durable grain, the store holds {others} others, {lanes} lanes");
    let figure = watch.rate("activation", done, note);
    engine.stop().await;
    Ok(figure)
}

/// What idle grains cost.
async fn idle(grains: u64, lanes: u16) -> Result<Vec<Figure>> {
    const STATE_BYTES: f64 = 8.0;
    let scratch = Scratch::make("idle")?;
    let engine = start(open(&scratch)?, lanes)?;
    let handle = engine.handle();
    let keys = routing_keys();
    touch_all(&handle, &keys, 1 << 40, 96 * 64).await?;
    let (before, watch) = (resident_bytes(), Watch::start());
    let done = touch_all(&handle, &keys, 0, grains).await?;
    let each = (resident_bytes().saturating_sub(before)) as f64 / done as f64 - STATE_BYTES;
    let name = format!("idle grain beyond its state, {} M grains", grains / 1_000_000);
    let figures = vec![
        Figure {
            name,
            value: each,
            unit: "bytes",
            note: "resident memory, keys of about 10 characters".into(),
        },
        watch.rate("activation, empty store", done, format!("{lanes} lanes")),
    ];
    engine.stop().await;
    Ok(figures)
}

async fn touch_all(handle: &Handle, keys: &[String], from: u64, calls: u64) -> Result<u64> {
    let each = calls / keys.len() as u64;
    let mut answers = Vec::new();
    for key in keys {
        let call = handle.grain::<Driver>(Key::from(key)).touch(from, each).timeout(hours(1));
        answers.push(tokio::spawn(call.into_future()));
    }
    for answer in answers {
        answer.await.map_err(|e| Error::new(ErrorKind::Closed, e.to_string()))??;
    }
    Ok(each * keys.len() as u64)
}

/// Fills the store with grains, as their commits would have.
fn preload(store: &Embedded, keys: &[String], grains: u64) -> Result<()> {
    let each = grains / keys.len() as u64;
    for (slot, routing_key) in keys.iter().enumerate() {
        let slot = SlotId(slot as u16);
        let (me, epoch) = (Incarnation(1), Epoch(1));
        let txid = TxId { incarnation: me, lane: 0 };
        let expected = (Incarnation(0), Epoch(0));
        submit(
            store,
            Script::Acquire {
                slot,
                me,
                txid,
                expected,
                epoch,
                run: store.run(),
                program: Program::default(),
            },
        )?;
        let mut state = Vec::new();
        codec::encode_named(&(1_u32, &Counter { total: 0 }), &mut state)?;
        let mut n = CommitNo(0);
        let mut next = 0;
        while next < each {
            let mut cells = Cells::default();
            for i in next..each.min(next + PRELOAD_CELLS) {
                let key = format!("g/Counter/{routing_key}/{i}");
                cells.put(|out| out.extend_from_slice(key.as_bytes()), |out| out.extend_from_slice(&state));
            }
            next += PRELOAD_CELLS;
            n = n.next();
            let id = CommitId { incarnation: me, epoch, n };
            let positions = Vec::new();
            let commit =
                Commit { slot, epoch, n, id, cells, positions, outbox: Outbox::default(), trim: CommitNo(0) };
            submit(store, Script::Commit(Arc::new(commit)))?;
        }
    }
    Ok(())
}

fn submit(store: &Embedded, script: Script) -> Result<()> {
    let (done, answer) = mpsc::channel();
    store.submit(vec![script], Box::new(move |replies| drop(done.send(replies))));
    let closed = |_| Error::new(ErrorKind::Closed, "the store ended");
    answer.recv().map_err(closed)?.map(|_| ())
}
