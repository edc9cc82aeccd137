//! What a record costs on one core: decoding alone, routing, and routing with windows and rows (no store).
//!
//! `cargo run --release -p granary-streams --example decode_rate [EVENTS] [DEVICES]`

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use granary_cluster::{Applied, Batch, Cells, CommitNo, Effects, Pipeline, SourceId};
use granary_core::{SlotId, time::millis};
use granary_streams::decode::{Decoded, decode};
use granary_streams::inject::{Injector, Options};
use granary_streams::plan::Decoder;
use granary_streams::{Plan, Slots, file};

const PIPELINE: &str = include_str!("../../deploy/examples/boontadata/pipeline.yaml");
const SLOTS: u16 = 96;
/// Records between two commits of all slots.
const COMMIT_EVERY: usize = 100_000;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|n| n.parse::<u32>().expect("a number"));
    let events = arguments.next().unwrap_or(2_000_000);
    let devices = arguments.next().unwrap_or(10_000);
    let batch = records(events, devices);
    let bytes = batch.bytes() as f64 / batch.len() as f64;
    println!("{} records of {bytes:.0} bytes, {devices} devices", batch.len());
    let text = PIPELINE.replace("allowed_lateness: forever", "allowed_lateness: 60s");
    let plan = || file::parse(&text).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    report("decode", batch.len(), || decode_all(&plan(), &batch));
    report("decode and route", batch.len(), || route_all(plan(), &batch));
    let mut results = 0;
    report("decode, route, windows, rows, seal", batch.len(), || results = apply_all(plan(), &batch));
    println!("{results} rows");
}

fn report(what: &str, records: usize, run: impl FnOnce()) {
    let (start, cpu) = (Instant::now(), cpu_ns());
    run();
    let wall = start.elapsed().as_nanos() as f64 / records as f64;
    let cpu = cpu_ns().zip(cpu).map(|(end, start)| (end - start) as f64 / records as f64);
    let rate = 1_000.0 / cpu.unwrap_or(wall);
    println!(
        "{what}: {:.0} ns of processor per record ({wall:.0} ns by the clock), {rate:.2} M/s",
        cpu.unwrap_or(wall)
    );
}

/// Processor time of this thread, where the system says: others may share the machine.
fn cpu_ns() -> Option<u64> {
    std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').next()?.parse().ok()
}

/// 5 % sent again at once or later, nothing late: as `granary bench streams` has it.
fn records(events: u32, devices: u32) -> Batch {
    let options = Options {
        devices,
        messages: events / devices,
        period: millis(2_000),
        disorder: millis(0),
        late_per_mille: 0,
        skewed_per_mille: 0,
        hot_devices: 0,
        ..Options::default()
    };
    let mut injector = Injector::new(options);
    let mut batch = Batch::default();
    let mut offset = 0;
    while let Some(message) = injector.next() {
        batch.push(offset, message.at, message.key, message.value);
        offset += 1;
    }
    batch
}

fn decode_all(plan: &Plan, batch: &Batch) {
    let Decoder::Schema(schema) = &plan.sources[0].decoder else { unreachable!("the pipeline is a file") };
    let mut decoded = Decoded::default();
    for record in batch.iter(SourceId(0), 0) {
        decode(schema, record.value, &mut decoded).expect("all records are valid");
        black_box(&decoded);
    }
}

fn route_all(plan: Plan, batch: &Batch) {
    let mut slots = Slots::new(Arc::new(plan), SLOTS);
    for record in batch.iter(SourceId(0), 0) {
        black_box(slots.route(&record));
    }
}

fn apply_all(plan: Plan, batch: &Batch) -> usize {
    let mut slots = Slots::new(Arc::new(plan), SLOTS);
    let mut effects: Vec<Effects> = (0..SLOTS).map(|_| Effects::default()).collect();
    let (mut rows, mut n) = (0, 0);
    for (i, record) in batch.iter(SourceId(0), 0).enumerate() {
        let slot = slots.route(&record);
        let effects_of = &mut effects[usize::from(slot.0)];
        while slots.apply(slot, &record, effects_of).expect("no handler fails") == Applied::Missing {
            for cell in std::mem::take(&mut effects_of.missing) {
                slots.supply(slot, &cell, None).expect("an absent cell is fine");
            }
        }
        if (i + 1) % COMMIT_EVERY == 0 {
            n += 1;
            for (slot, effects) in effects.iter_mut().enumerate() {
                let mut cells = Cells::default();
                slots.seal(SlotId(slot as u16), CommitNo(n), &mut cells);
                black_box(&cells);
                slots.acknowledged(SlotId(slot as u16), CommitNo(n));
                rows += effects.outbox.len();
                *effects = Effects::default();
            }
        }
    }
    rows + effects.iter().map(|effects| effects.outbox.len()).sum::<usize>()
}
