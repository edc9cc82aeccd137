//! Publishing, and finding out after an unknown outcome.

use super::*;

#[test]
fn without_outputs_the_marker_follows_alone_and_never_falls() {
    let mut bench = Bench::new(Outlet::Log);
    bench.until_marker(&row(4, 9), Vec::new());
    bench.hear(Heard::Marker(bench.ask(), Some(marker(6, 4, 12))));
    bench.done();
    bench.seal(10, outbox([9]));
    bench.done();
    let publication = bench.slot.publication().unwrap();
    assert!(publication.commits.is_empty());
    assert_eq!((publication.marker.n, publication.marker.positions), (CommitNo(7), at(12)));
}

#[test]
fn a_missing_marker_is_written_before_anything_is_committed() {
    let mut bench = Bench::new(Outlet::Log);
    bench.until_marker(&row(4, 9), Vec::new());
    bench.hear(Heard::Marker(bench.ask(), None));
    assert_eq!(bench.names(), ["Opened"]);
    assert!(bench.slot.may_apply() && !bench.slot.may_seal());
    let publication = bench.slot.publication().unwrap();
    assert_eq!((publication.marker.n, publication.commits.len()), (CommitNo(4), 0));
    bench.hear(Heard::Published(bench.slot.epoch(), CommitNo(4)));
    assert!(bench.slot.may_seal());
}

#[test]
fn a_missing_marker_with_outputs_needs_a_person() {
    let mut bench = Bench::new(Outlet::Log);
    bench.until_marker(&row(4, 9), vec![(CommitNo(4), Arc::new(outbox([8])))]);
    bench.hear(Heard::Marker(bench.ask(), None));
    assert_eq!(bench.names(), ["Drop", "Stop"]);
    assert_eq!(bench.slot.phase(), Phase::Stopped);
    assert!(!bench.slot.take(&row(4, 9), RUN, &mut Vec::new()));
}

#[test]
fn after_an_unknown_end_owner_and_marker_are_read_before_anything_is_sent() {
    let mut bench = running(4, 9);
    bench.seal(10, outbox([9]));
    bench.done();
    assert!(bench.slot.publication().is_some());
    assert_eq!(bench.hear(Heard::ProducerLost).names(), ["InitProducer"]);
    assert_eq!(bench.hear(Heard::ProducerReady).names(), ["ReadRecord"]);
    assert!(!bench.slot.wants_to_publish() && !bench.slot.may_give());
    let late = bench.ask();
    // the producer is lost once more: the answer to the earlier question is not believed
    bench.hear(Heard::ProducerLost).hear(Heard::ProducerReady);
    let mut mine = row(5, 10);
    (mine.owner, mine.epoch) = (ME, bench.slot.epoch());
    let stored = Stored { record: mine, outbox: Vec::new(), run: RUN };
    let ask = bench.ask();
    assert_eq!(bench.hear(Heard::Record(late, stored.clone())).names(), Vec::<String>::new());
    bench.hear(Heard::Record(ask, stored));
    assert_eq!(bench.names(), ["ReadMarker"]);
    let own = Marker { txid: txid(ME), ..marker(5, bench.slot.epoch().0, 10) };
    bench.hear(Heard::Marker(bench.ask(), Some(own)));
    assert!(!bench.slot.wants_to_publish(), "the transaction had ended after all");
    assert_eq!(bench.slot.covered(), CommitNo(5));
}

#[test]
fn a_lane_that_no_longer_owns_the_slot_drops_it() {
    for (owner, run) in [(OTHER, RUN), (ME, RunId(2))] {
        let mut bench = running(4, 9);
        bench.hear(Heard::ProducerReady);
        let mut record = row(4, 9);
        (record.owner, record.epoch) = (owner, bench.slot.epoch());
        bench.hear(Heard::Record(bench.ask(), Stored { record, outbox: Vec::new(), run }));
        assert_eq!(bench.dropped().why, Why::Fenced);
    }
    let mut bench = running(4, 9);
    bench.hear(Heard::ProducerReady);
    let mut record = row(4, 9);
    (record.owner, record.epoch) = (ME, bench.slot.epoch());
    bench.hear(Heard::Record(bench.ask(), Stored { record, outbox: Vec::new(), run: RUN }));
    bench.hear(Heard::Marker(bench.ask(), Some(marker(5, 9, 9))));
    assert_eq!(bench.dropped().why, Why::MarkerAhead);
}

#[test]
fn an_init_while_the_slot_is_being_read_makes_it_read_again() {
    let mut bench = Bench::new(Outlet::Log);
    bench.until_marker(&row(4, 9), vec![(CommitNo(4), Arc::new(outbox([8])))]);
    let stale = bench.ask();
    assert_eq!(bench.hear(Heard::ProducerReady).names(), ["ReadRecord"]);
    let again = bench.ask();
    assert_eq!(bench.hear(Heard::Marker(stale, Some(marker(3, 1, 8)))).names(), Vec::<String>::new());
    bench.hear(Heard::Record(again, Stored { record: row(4, 9), outbox: Vec::new(), run: RUN }));
    assert_eq!(bench.dropped().why, Why::Fenced);
}

#[test]
fn an_init_while_the_store_catches_up_is_followed_by_a_recheck() {
    let mut bench = Bench::new(Outlet::Log);
    bench.until_marker(&row(4, 9), Vec::new());
    bench.hear(Heard::Marker(bench.ask(), Some(marker(6, 4, 12))));
    assert_eq!(bench.names(), ["Rebase"]);
    bench.out.clear();
    assert_eq!(bench.hear(Heard::ProducerReady).names(), Vec::<String>::new());
    bench.done();
    assert!(bench.names().contains(&"ReadRecord".to_string()), "{:?}", bench.names());
    assert!(bench.slot.may_apply() && !bench.slot.wants_to_publish());
}

#[test]
fn an_aborted_transaction_is_published_again() {
    let mut bench = running(4, 9);
    bench.seal(10, outbox([9]));
    bench.done();
    let first = bench.slot.publication().unwrap().marker;
    bench.hear(Heard::Aborted(bench.slot.epoch(), first.n));
    assert_eq!(bench.slot.publication().unwrap().marker, first);
}

#[test]
fn a_slot_is_given_only_when_nothing_is_on_its_way() {
    let mut bench = running(4, 9);
    bench.seal(10, outbox([9]));
    assert!(!bench.slot.give(OTHER, &mut Vec::new()), "a commit is on its way");
    bench.done();
    assert!(!bench.slot.give(OTHER, &mut Vec::new()), "an output waits");
    let n = bench.slot.publication().unwrap().marker.n;
    bench.hear(Heard::Published(bench.slot.epoch(), n));
    bench.out.clear();
    assert!(bench.slot.give(OTHER, &mut bench.out));
    assert_eq!(bench.names(), ["Give"]);
    assert!(!bench.slot.may_apply());
    bench.done();
    assert_eq!(bench.dropped().why, Why::Given(OTHER));
    assert_eq!(bench.slot.phase(), Phase::Off);
}

#[test]
fn a_full_outbox_is_told() {
    let mut bench = running(4, 9);
    bench.slot.set_outbox_bytes_max(2);
    assert!(!bench.slot.is_outbox_full());
    bench.seal(10, outbox([9]));
    bench.done();
    assert_eq!((bench.slot.outbox_bytes(), bench.slot.is_outbox_full()), (2, true));
    let n = bench.slot.publication().unwrap().marker.n;
    bench.hear(Heard::Published(bench.slot.epoch(), n));
    assert!(!bench.slot.is_outbox_full());
}
