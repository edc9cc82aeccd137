//! A stream whose entries leave before their commit: all of them come, sooner, and copies have the same identity.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use granary_cluster::{Store, StreamId};
use granary_core::SlotId;
use granary_scenarios::pipeline::text;
use granary_scenarios::silo::SLOTS;
use granary_scenarios::{Faults, Rig, Silo, soon};

use crate::kinds::kinds;
use crate::log::{EVENTS, KEYS, OUTPUTS, TAKE, assert_in_order, broker, filled, ticking_until};

const OUT: StreamId = StreamId(0);

fn start(rig: &Rig, plant: impl FnOnce(&Faults)) -> Silo {
    rig.start_doomed(kinds(), TAKE, plant, |config| {
        config.batch_records_max = 3;
        config.eager = vec![OUT];
    })
}

/// The outputs by identity: one and the same value each, however often it came.
fn by_id(rig: &Rig) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut all = BTreeMap::new();
    for record in broker(rig).visible("out", 0) {
        let id = record.id.expect("outputs have identities");
        let before = all.insert(id.clone(), record.value.clone());
        assert!(before.is_none_or(|before| before == record.value), "{} has two values", text(&id));
    }
    all
}

/// What came first of each identity is in the order of the records, for each key, with its state.
fn assert_all(rig: &Rig, what: &str) {
    assert_eq!(by_id(rig).len(), OUTPUTS, "{what}");
    let mut seen = BTreeSet::new();
    let outputs = broker(rig).visible("out", 0).into_iter();
    assert_in_order(outputs.filter(|output| seen.insert(output.id.clone())), what);
}

#[tokio::test]
async fn outputs_are_visible_before_their_commit() {
    let rig = filled();
    let silo = start(&rig, |faults| faults.die_at("commit.before", 1));
    ticking_until(&silo, "the first commit", || silo.faults.is_cut_off()).await;
    assert!(!by_id(&rig).is_empty(), "nothing is stored, and outputs are out");
    silo.crash();
    let silo = start(&rig, |_| {});
    ticking_until(&silo, "all outputs", || by_id(&rig).len() == OUTPUTS).await;
    soon("the silo to stop", silo.stop()).await;
    assert_all(&rig, "after a death before the first commit");
    assert!(broker(&rig).visible("out", 0).len() > OUTPUTS, "what was not stored came again");
}

/// A commit never overtakes what it published: whatever dies, and whenever, nothing is missing.
#[tokio::test]
async fn a_death_at_any_arrow_loses_nothing() {
    for point in ["eager.before", "eager.after", "commit.before", "commit.after", "send.after", "end.after"] {
        for passing in [1, 2, 5] {
            let rig = filled();
            let silo = start(&rig, |faults| faults.die_at(point, passing));
            let what = format!("{point}, passing {passing}");
            ticking_until(&silo, &what, || silo.faults.is_cut_off() || by_id(&rig).len() == OUTPUTS).await;
            silo.crash();
            let silo = start(&rig, |_| {});
            ticking_until(&silo, &what, || by_id(&rig).len() == OUTPUTS).await;
            soon("the silo to stop", silo.stop()).await;
            assert_all(&rig, &what);
        }
    }
}

#[tokio::test]
async fn a_log_that_is_away_holds_up_the_commits() {
    let rig = Rig::behind_a_log();
    let silo = start(&rig, |_| {});
    let append = |events: Range<usize>| {
        for i in events {
            KEYS.iter().for_each(|key| {
                rig.append(key, &format!("event {i}"));
            });
        }
    };
    append(0..EVENTS / 2);
    ticking_until(&silo, "the first half", || by_id(&rig).len() == OUTPUTS / 2).await;
    broker(&rig).set_away(true);
    let stored = |rig: &Rig| (0..SLOTS).map(|slot| rig.memory.record(SlotId(slot)).unwrap().n.0).sum::<u64>();
    append(EVENTS / 2..EVENTS);
    let (before, began) = (stored(&rig), Instant::now());
    ticking_until(&silo, "some time", || began.elapsed() > Duration::from_millis(200)).await;
    assert_eq!(by_id(&rig).len(), OUTPUTS / 2, "nothing comes while the log is away");
    assert!(stored(&rig) <= before + u64::from(SLOTS), "at most the commits that were on their way");
    broker(&rig).set_away(false);
    ticking_until(&silo, "all outputs", || by_id(&rig).len() == OUTPUTS).await;
    soon("the silo to stop", silo.stop()).await;
    assert_all(&rig, "after an outage");
}
