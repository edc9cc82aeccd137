//! Outputs through transactions: each once and in order, whatever dies, is lost or goes back, and whenever.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use granary_cluster::{CommitNo, Marker, Store, TxId};
use granary_core::time::{hours, millis};
use granary_core::{ErrorKind, SlotId};
use granary_scenarios::broker::Visible;
use granary_scenarios::pipeline::Teller;
use granary_scenarios::silo::SLOTS;
use granary_scenarios::{Broker, EndFault, Faults, Rig, SOON, Silo, eventually, soon};

use crate::kinds::{Counter, answer, joined, kinds, send, settle};

pub const TAKE: Teller = Teller { kind: "Tally", method: "take", elsewhere: None };
pub const KEYS: [&str; 5] = ["k-0", "k-1", "k-2", "k-3", "k-4"];
pub const EVENTS: usize = 24;
/// One line of the pipeline and one of the handler for each record.
pub const OUTPUTS: usize = 2 * EVENTS * KEYS.len();

pub fn filled() -> Rig {
    let rig = Rig::behind_a_log();
    for i in 0..EVENTS {
        for key in KEYS {
            rig.append(key, &format!("event {i}"));
        }
    }
    rig
}

fn start(rig: &Rig, batch: usize) -> Silo {
    start_doomed(rig, batch, |_| {})
}

fn start_doomed(rig: &Rig, batch: usize, plant: impl FnOnce(&Faults)) -> Silo {
    rig.start_doomed(kinds(), TAKE, plant, |config| {
        config.batch_records_max = batch;
        config.lanes = 2;
    })
}

pub fn broker(rig: &Rig) -> &Broker {
    rig.broker.as_deref().unwrap()
}

/// Moves the clock until `holds` says yes.
pub async fn ticking_until(silo: &Silo, expected: &str, mut holds: impl FnMut() -> bool) {
    eventually(expected, || {
        silo.advance(millis(20));
        holds()
    })
    .await;
}

/// Every output there should be, each once; for each key in the order of its records.
fn assert_each_once(rig: &Rig, what: &str) {
    let outputs = rig.outputs_by_id("out");
    let repeated: Vec<_> = outputs.windows(2).filter(|two| two[0].0 == two[1].0).collect();
    assert!(repeated.is_empty(), "{what}: published twice: {repeated:?}");
    assert_eq!(outputs.len(), OUTPUTS, "{what}");
    assert_in_order(broker(rig).visible("out", 0), what);
}

/// The handler's lines of each key are in the order of its records, with its state.
pub fn assert_in_order(outputs: impl IntoIterator<Item = Visible>, what: &str) {
    let mut by_key: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in outputs {
        let key = String::from_utf8(record.key.unwrap()).unwrap();
        let text = granary_scenarios::pipeline::text(&record.value);
        if text.starts_with("k-") {
            by_key.entry(key).or_default().push(text);
        }
    }
    for key in KEYS {
        let expected: Vec<String> =
            (0..EVENTS).map(|i| format!("{key}: event {i}, the {}. of its key", i + 1)).collect();
        assert_eq!(by_key[key], expected, "{what}: {key} in order, with its state");
    }
}

async fn to_the_end(rig: &Rig, silo: Silo, what: &str) {
    let began = Instant::now();
    let stands = || (rig.outputs("out").len(), silo.stats().slots_running, rig.outputs("poisoned"));
    while stands().0 < OUTPUTS || stands().1 < u64::from(SLOTS) {
        silo.advance(millis(20));
        assert!(began.elapsed() < SOON, "{what}: {:?} of {OUTPUTS}: {:?}", stands(), silo.stats());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(silo.stats().invariants_broken, 0, "{what}");
    soon("the silo to stop", silo.stop()).await;
    assert_each_once(rig, what);
}

#[tokio::test]
async fn each_output_is_published_once() {
    for batch in [1, 5, 1_000] {
        let rig = filled();
        let silo = start(&rig, batch);
        to_the_end(&rig, silo, &format!("{batch} records a commit")).await;
        for slot in (0..SLOTS).map(SlotId) {
            assert!(
                rig.memory.outbox(slot).unwrap().is_empty(),
                "slot {slot} is trimmed before the silo ends"
            );
        }
    }
}

/// The process dies before and after every arrow, early and late; the next life takes over.
#[tokio::test]
async fn a_death_at_any_arrow_publishes_nothing_twice_and_loses_nothing() {
    let arrows = ["commit", "begin", "send", "markers", "end", "trim", "fence"];
    for point in arrows.iter().flat_map(|arrow| [format!("{arrow}.before"), format!("{arrow}.after")]) {
        for passing in [1, 2, 5] {
            let rig = filled();
            if point.starts_with("fence") {
                // the next life has somebody to fence, once a slot was another's
                let silo = start(&rig, 3);
                ticking_until(&silo, "a slot of the first life", || silo.stats().slots_running > 0).await;
                silo.crash();
            }
            // a lane fences once, and trims when it is idle, if it is: the point may not be passed so often
            let may_live =
                passing > 2 || passing > 1 && (point.starts_with("trim") || point.starts_with("fence"));
            let silo = start_doomed(&rig, 3, |faults| faults.die_at(&point, passing));
            ticking_until(&silo, &format!("death at {point}, passing {passing}"), || {
                silo.faults.is_cut_off() || (may_live && rig.outputs("out").len() >= OUTPUTS)
            })
            .await;
            silo.crash();
            let silo = start(&rig, 4);
            to_the_end(&rig, silo, &format!("{point}, passing {passing}")).await;
        }
    }
}

/// Many lives, each of which gets some records and dies somewhere; now and then one gets everywhere, so that no record
/// is suspected of the deaths.
#[tokio::test]
async fn a_row_of_deaths_publishes_nothing_twice() {
    let rig = Rig::behind_a_log();
    let points = ["end.after", "begin.after", "commit.after", "end.before", "markers.after", "commit.before"];
    let mut deaths = 0;
    for (life, point) in points.iter().cycle().take(EVENTS / 2).enumerate() {
        for i in [2 * life, 2 * life + 1] {
            for key in KEYS {
                rig.append(key, &format!("event {i}"));
            }
        }
        let enough = 2 * 2 * (life + 1) * KEYS.len();
        let done = || rig.outputs("out").len() >= enough;
        let silo = start_doomed(&rig, 1, |faults| faults.die_at(point, 1 + life as u64 % 2));
        ticking_until(&silo, point, || silo.faults.is_cut_off() || done()).await;
        deaths += u32::from(silo.faults.is_cut_off());
        silo.crash();
        if life % 4 == 3 {
            let silo = start(&rig, 1);
            ticking_until(&silo, "all outputs so far", done).await;
            silo.crash();
        }
    }
    assert!(deaths > 3, "{deaths} lives died at their point");
    let silo = start(&rig, 7);
    to_the_end(&rig, silo, "after many lives").await;
}

#[tokio::test]
async fn ends_that_are_lost_or_taken_back_are_found_out() {
    use EndFault::{Aborted, ReplyLost, RequestLost};
    for faults in
        [vec![ReplyLost], vec![RequestLost], vec![Aborted], vec![ReplyLost, Aborted, RequestLost, ReplyLost]]
    {
        let rig = filled();
        let silo = start_doomed(&rig, 2, |planted| planted.next_ends(faults.clone()));
        ticking_until(&silo, "all outputs", || rig.outputs("out").len() >= OUTPUTS).await;
        let lost = faults.iter().filter(|fault| **fault != Aborted).count() as u64;
        let found = || {
            let stats = silo.stats();
            (stats.transactions_lost, stats.transactions_aborted)
        };
        ticking_until(&silo, "the lane to hear of each", || {
            let (of_lost, of_aborted) = found();
            of_lost + of_aborted >= faults.len() as u64
        })
        .await;
        assert_eq!(found(), (lost, faults.len() as u64 - lost));
        to_the_end(&rig, silo, &format!("{faults:?}")).await;
    }
}

/// Somebody initialises a lane's transactional id, as one who took its slots would.
#[tokio::test]
async fn a_fenced_producer_finds_out_and_goes_on() {
    const ROUNDS: usize = 6;
    let rig = Rig::behind_a_log();
    let silo = start(&rig, 1);
    ticking_until(&silo, "all slots run", || silo.stats().slots_running == u64::from(SLOTS)).await;
    for round in 0..ROUNDS {
        let fence = || broker(&rig).ids().iter().for_each(|id| drop(broker(&rig).init(*id)));
        if round % 2 == 0 {
            fence(); // before there is anything to publish: the next transaction is its first to fail
        }
        for i in (0..EVENTS).filter(|i| i * ROUNDS / EVENTS == round) {
            for key in KEYS {
                rig.append(key, &format!("event {i}"));
            }
        }
        if round % 2 == 1 {
            fence();
        }
        let outputs = OUTPUTS / ROUNDS * (round + 1);
        ticking_until(&silo, "all outputs so far", || rig.outputs("out").len() >= outputs).await;
    }
    assert!(silo.stats().transactions_lost > 0, "the producer was fenced: {:?}", silo.stats());
    to_the_end(&rig, silo, "a producer that is fenced now and then").await;
}

/// A log that lost its last records has a marker from before: what follows breaks an invariant, and the silo says so.
#[tokio::test]
async fn a_marker_that_falls_is_told() {
    let rig = filled();
    let silo = start(&rig, 1);
    let slot = granary_core::id::slot_of(KEYS[0].as_bytes(), SLOTS);
    let marker = || broker(&rig).committed_marker(slot);
    eventually("its marker", || marker().is_some()).await;
    let before = Marker { n: CommitNo(0), ..marker().unwrap() };
    ticking_until(&silo, "all outputs", || rig.outputs("out").len() >= OUTPUTS).await;
    assert_eq!(silo.stats().invariants_broken, 0);
    assert!(marker().unwrap().n > before.n, "the slot went on");
    broker(&rig).forge_marker(slot, before);
    broker(&rig).ids().iter().for_each(|id| drop(broker(&rig).init(*id)));
    answer(silo.handle.grain::<Counter>(KEYS[0]).tell_out("x".into())).await.unwrap();
    ticking_until(&silo, "the silo to say so", || silo.stats().invariants_broken > 0).await;
    silo.crash();
}

/// A second life takes every slot while the first one runs on, cut off from nothing.
#[tokio::test]
async fn a_zombie_publishes_nothing_more() {
    for delay_ms in [0, 3, 30] {
        let rig = filled();
        let zombie = start(&rig, 1);
        zombie.faults.set_log_delay(Duration::from_millis(delay_ms));
        ticking_until(&zombie, "its first outputs", || rig.outputs("out").len() > 4).await;
        let silo = start(&rig, 3);
        ticking_until(&silo, "all outputs", || {
            zombie.advance(millis(20));
            rig.outputs("out").len() >= OUTPUTS && silo.stats().slots_running == u64::from(SLOTS)
        })
        .await;
        // the call that finds out hears that it did not run, the later ones that the slot has moved
        soon("the zombie to refuse", async {
            loop {
                let sent = send(zombie.handle.grain::<Counter>("c").add(1).timeout(hours(1)));
                while !sent.is_finished() {
                    zombie.advance(millis(20));
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                let error = joined(sent).await.expect_err("the slot is not its own any more");
                if error.kind() == ErrorKind::Moved {
                    return;
                }
            }
        })
        .await;
        to_the_end(&rig, silo, &format!("a zombie whose log is {delay_ms} ms late")).await;
        zombie.crash();
        assert_each_once(&rig, "after the zombie's end");
    }
}

/// The store fails over to a replica that lags: its last writes are gone, what they published is not.
#[tokio::test]
async fn a_store_that_goes_back_publishes_nothing_twice() {
    for (batch, writes) in [(1, 1), (1, 7), (3, 30), (2, 100)] {
        let rig = filled();
        let silo = start(&rig, batch);
        let mut outputs = 20;
        for _ in 0..3 {
            ticking_until(&silo, "some outputs", || rig.outputs("out").len() >= outputs.min(OUTPUTS)).await;
            rig.memory.roll_back(writes);
            outputs += 60;
        }
        to_the_end(&rig, silo, &format!("{writes} writes lost, {batch} records a commit")).await;
    }
}

/// The same, found by the next life.
#[tokio::test]
async fn a_store_that_went_back_between_two_lives_publishes_nothing_twice() {
    for writes in [3, 25, 400] {
        let rig = filled();
        let silo = start(&rig, 1);
        ticking_until(&silo, "some outputs", || rig.outputs("out").len() >= OUTPUTS / 2).await;
        silo.crash();
        rig.memory.roll_back(writes);
        let silo = start(&rig, 2);
        to_the_end(&rig, silo, &format!("{writes} writes lost")).await;
    }
}

/// While the log is away calls that emit nothing go on, emits and records wait.
#[tokio::test]
async fn a_full_outbox_refuses_emits_and_pauses_sources() {
    let rig = Rig::behind_a_log();
    let silo = rig.start_streaming(kinds(), TAKE, |config| config.outbox_bytes_max = 200);
    let counter = || silo.handle.grain::<Counter>("k-1");
    assert_eq!(answer(counter().add(1)).await, Ok(1));
    silo.faults.set_log_held(true);
    let mut refused = None;
    for i in 0..100 {
        if let Err(error) = answer(counter().tell_out(format!("{i:050}"))).await {
            refused = Some((i, error));
            break;
        }
    }
    let (taken, error) = refused.unwrap();
    assert_eq!(error.kind(), ErrorKind::Overloaded, "{error}");
    assert!((2..20).contains(&taken), "{taken} emits were taken");
    let total = answer(counter().total()).await.unwrap();
    assert_eq!(answer(counter().add(1)).await, Ok(total + 1), "a call that emits nothing goes on");
    rig.append("k-1", "event 0");
    silo.handle.look();
    settle(&silo).await;
    assert_eq!(silo.stats().records, 0, "its source pauses");
    silo.faults.set_log_held(false);
    ticking_until(&silo, "everything is published", || rig.outputs("out").len() == taken + 2).await;
    silo.stop().await;
}

/// What an idle slot published is not kept in the store for long.
#[tokio::test]
async fn an_idle_slot_trims() {
    let rig = Rig::behind_a_log();
    let silo = rig.start(kinds());
    answer(silo.handle.grain::<Counter>("c").tell_out("x".into())).await.unwrap();
    let stored = || (0..SLOTS).any(|slot| !rig.memory.outbox(SlotId(slot)).unwrap().is_empty());
    eventually("it is published", || rig.outputs("out").len() == 1).await;
    assert!(stored());
    for _ in 0..10 {
        silo.advance(millis(100));
        settle(&silo).await;
    }
    eventually("it is trimmed within a second", || !stored()).await;
    silo.stop().await;
}

/// A log that is away does not keep a silo from ending; the next one publishes what is left.
#[tokio::test]
async fn a_silo_ends_without_its_log() {
    let rig = Rig::behind_a_log();
    let silo = rig.start(kinds());
    answer(silo.handle.grain::<Counter>("c").add(1)).await.unwrap();
    silo.faults.set_log_held(true);
    answer(silo.handle.grain::<Counter>("c").tell_out("x".into())).await.unwrap();
    silo.stop().await;
    assert_eq!(rig.outputs("out").len(), 0, "the log was away to the end");
    let silo = rig.start(kinds());
    ticking_until(&silo, "the next life publishes it", || rig.outputs("out").len() == 1).await;
    silo.stop().await;
}

/// Every slot's marker is written at 0 before its first commit, and anew each day.
#[tokio::test]
async fn markers_are_there_from_the_start_and_renewed() {
    let rig = Rig::behind_a_log();
    let silo = rig.start(kinds());
    let marked = || (0..SLOTS).all(|slot| broker(&rig).committed_marker(SlotId(slot)).is_some());
    eventually("each slot has its marker", marked).await;
    let before = silo.stats().transactions;
    silo.advance(hours(25));
    eventually("the markers are written anew", || silo.stats().transactions > before).await;
    assert!(broker(&rig).open_transactions().is_empty());
    let marker = broker(&rig).committed_marker(SlotId(0)).unwrap();
    assert_eq!(
        (marker.n.0, marker.txid.lane),
        (0, TxId { incarnation: marker.txid.incarnation, lane: 0 }.lane)
    );
    silo.stop().await;
}

/// The store is a round trip away: what a round of calls surely needs is looked up together.
#[tokio::test]
async fn cold_grains_are_looked_up_together() {
    let rig = Rig::behind_a_log();
    let silo = rig.start(kinds());
    let add = |silo: &Silo, i: u64| send(silo.handle.grain::<Counter>(format!("c-{i}")).add(i));
    for (i, call) in (0..500).map(|i| add(&silo, i)).collect::<Vec<_>>().into_iter().enumerate() {
        assert_eq!(joined(call).await, Ok(i as u64));
    }
    silo.stop().await;
    let silo = rig.start(kinds());
    assert_eq!(answer(silo.handle.grain::<Counter>("warm").total()).await, Ok(0));
    silo.faults.set_reads_held(true);
    let plug = send(silo.handle.grain::<Counter>("plug").total());
    eventually("the lane reads", || silo.faults.trips() > 1).await;
    let before = silo.faults.trips();
    let calls: Vec<_> = (0..500).map(|i| add(&silo, i)).collect();
    silo.faults.set_reads_held(false);
    assert_eq!(joined(plug).await, Ok(0));
    for (i, call) in calls.into_iter().enumerate() {
        assert_eq!(joined(call).await, Ok(2 * i as u64));
    }
    let trips = silo.faults.trips() - before;
    assert!(silo.faults.loads() >= 500 && trips < 100, "500 cold grains took {trips} round trips");
    silo.stop().await;
}

/// The same for grains that records tell.
#[tokio::test]
async fn grains_that_records_tell_are_looked_up_together() {
    let rig = Rig::behind_a_log();
    for i in 0..400 {
        rig.append(&format!("cold-{i}"), "event");
    }
    let silo = rig.start_streaming(kinds(), TAKE, |_| {});
    silo.faults.set_read_delay(Duration::from_millis(1));
    ticking_until(&silo, "all outputs", || rig.outputs("out").len() == 800).await;
    let trips = silo.faults.trips();
    assert!(silo.faults.loads() >= 400 && trips < 60, "400 cold grains took {trips} round trips");
    silo.stop().await;
}
