//! The machine step by step; the whole protocol is played in `tests/sim`.

mod publish;

use std::sync::Arc;

use granary_core::{SlotId, Timestamp};

use super::*;
use crate::commit::{Marker, SlotRecord, SourceId, StreamId, TxIds};
use crate::port::{Reply, Verdict};
use crate::revision::Program;

const ME: Incarnation = Incarnation(7);
const OTHER: Incarnation = Incarnation(3);
const RUN: RunId = RunId(1);

fn txid(incarnation: Incarnation) -> TxId {
    TxId { incarnation, lane: 0 }
}

fn at(offset: u64) -> Vec<Position> {
    vec![Position { source: SourceId(0), partition: 0, offset }]
}

fn outbox(offsets: impl IntoIterator<Item = u64>) -> Outbox {
    let mut outbox = Outbox::default();
    for offset in offsets {
        let cause = Cause { source: SourceId(0), partition: 0, offset, index: 0 };
        outbox.push(StreamId(0), cause, Timestamp(0), b"k", |_| (), |value| value.push(1));
    }
    outbox
}

fn row(n: u64, offset: u64) -> SlotRecord {
    let mut row = SlotRecord::new();
    (row.owner, row.epoch, row.n, row.positions, row.run) = (OTHER, Epoch(4), CommitNo(n), at(offset), RUN);
    row.txids.ids = vec![txid(OTHER)];
    row
}

fn marker(n: u64, epoch: u64, offset: u64) -> Marker {
    Marker { n: CommitNo(n), epoch: Epoch(epoch), txid: txid(OTHER), positions: at(offset) }
}

/// A machine and what it asked for last.
struct Bench {
    slot: Slot,
    out: Vec<Do>,
}

impl Bench {
    fn new(outlet: Outlet) -> Bench {
        Bench {
            slot: Slot::new(Seat {
                slot: SlotId(0),
                me: ME,
                txid: txid(ME),
                outlet,
                program: Program::default(),
            }),
            out: Vec::new(),
        }
    }

    fn hear(&mut self, heard: Heard) -> &mut Self {
        self.out.clear();
        self.slot.hear(heard, &mut self.out);
        self
    }

    fn reply(&mut self, verdict: Verdict, record: Option<SlotRecord>) -> &mut Self {
        let published = (self.slot.seat.outlet == Outlet::Store).then(|| self.slot.sealed());
        self.hear(Heard::Scripted(Reply { slot: SlotId(0), verdict, record, published }))
    }

    fn done(&mut self) -> &mut Self {
        self.reply(Verdict::Done, None)
    }

    fn ask(&self) -> Ask {
        self.out
            .iter()
            .find_map(|each| match each {
                Do::Fence(ask, _) | Do::ReadRecord(ask) | Do::ReadMarker(ask) => Some(*ask),
                _ => None,
            })
            .expect("a question was asked")
    }

    fn names(&self) -> Vec<String> {
        let word = |text: String| text.split(['(', ' ']).next().unwrap().to_owned();
        self.out
            .iter()
            .map(|each| match each {
                Do::Script(script) => word(format!("{script:?}")),
                other => word(format!("{other:?}")),
            })
            .collect()
    }

    /// Takes a slot whose row is `seen`.
    fn acquire(&mut self, seen: &SlotRecord) -> SlotRecord {
        self.out.clear();
        assert!(self.slot.take(seen, RUN, &mut self.out));
        let Some(Do::Script(Script::Acquire { epoch, .. })) = self.out.last() else { panic!("no acquire") };
        let mut mine = seen.clone();
        (mine.owner, mine.epoch, mine.tries) = (ME, *epoch, seen.tries + 1);
        mine.txids.ids.push(txid(ME));
        self.reply(Verdict::Done, Some(mine.clone()));
        mine
    }

    /// Up to the reading of the marker, on an external log.
    fn until_marker(&mut self, seen: &SlotRecord, entries: Vec<(CommitNo, Arc<Outbox>)>) -> &mut Self {
        let mine = self.acquire(seen);
        assert_eq!(self.names(), ["Fence"]);
        self.hear(Heard::Fenced(self.ask()));
        assert_eq!(self.names(), ["ReadRecord"]);
        self.hear(Heard::Record(self.ask(), Stored { record: mine, outbox: entries, run: RUN }));
        assert_eq!(self.names(), ["ReadMarker"]);
        self
    }

    fn seal(&mut self, offset: u64, entries: Outbox) -> Arc<Commit> {
        self.out.clear();
        self.slot.seal(Cells::default(), at(offset), entries, &mut self.out);
        match self.out.last() {
            Some(Do::Script(Script::Commit(commit))) => commit.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn dropped(&self) -> Dropped {
        self.out
            .iter()
            .find_map(|each| if let Do::Drop(dropped) = each { Some(*dropped) } else { None })
            .expect("the slot was dropped")
    }
}

fn embedded() -> Bench {
    let mut bench = Bench::new(Outlet::Store);
    bench.acquire(&row(4, 9));
    assert_eq!(bench.names(), ["Opened"]);
    bench
}

fn running(n: u64, offset: u64) -> Bench {
    let mut bench = Bench::new(Outlet::Log);
    bench.until_marker(&row(n, offset), Vec::new());
    bench.hear(Heard::Marker(bench.ask(), Some(marker(n, 4, offset))));
    assert_eq!(bench.names(), ["Opened"]);
    bench
}

#[test]
fn with_the_embedded_store_a_commit_is_published_when_it_is_stored() {
    let mut bench = embedded();
    assert!(bench.slot.may_seal() && bench.slot.may_apply());
    let commit = bench.seal(11, outbox([9, 10]));
    assert_eq!((commit.n, commit.outbox.len()), (CommitNo(5), 2));
    assert!(!bench.slot.may_seal() && bench.slot.may_apply());
    assert_eq!((bench.slot.sealed(), bench.slot.open_commit()), (CommitNo(5), CommitNo(6)));
    assert_eq!(bench.done().names(), ["Release"]);
    assert_eq!(bench.slot.covered(), CommitNo(5));
    assert!(!bench.slot.wants_to_publish() && !bench.slot.wants_trim() && bench.slot.may_give());
}

#[test]
fn a_commit_is_resent_byte_for_byte() {
    let mut bench = embedded();
    let first = bench.seal(10, outbox([9]));
    for _ in 0..3 {
        bench.hear(Heard::ScriptUnknown);
        let Some(Do::Script(Script::Commit(again))) = bench.out.last() else { panic!("{:?}", bench.out) };
        assert!(Arc::ptr_eq(&first, again));
    }
    assert_eq!(bench.done().names(), ["Release"]);
}

#[test]
fn a_rollback_waits_for_the_commit_in_flight_and_opens_after_it() {
    let mut bench = embedded();
    bench.seal(10, outbox([9]));
    bench.out.clear();
    bench.slot.rollback(&mut bench.out);
    assert_eq!(bench.dropped(), Dropped { why: Why::Rollback, awaited: Some(CommitNo(5)), unsure: None });
    assert!(!bench.slot.may_apply() && !bench.slot.may_seal());
    assert_eq!(bench.done().names(), ["Release", "Opened"]);
    assert_eq!(bench.slot.positions(), at(10));
    bench.out.clear();
    bench.slot.rollback(&mut bench.out);
    assert_eq!(bench.names(), ["Drop", "Opened"], "nothing is on its way");
}

#[test]
fn fenced_is_sure_only_if_the_commit_was_sent_once() {
    let mut bench = embedded();
    bench.seal(10, outbox([9]));
    bench.reply(Verdict::Fenced, None);
    assert_eq!(bench.dropped(), Dropped { why: Why::Fenced, awaited: None, unsure: None });
    let mut bench = embedded();
    bench.seal(10, outbox([9]));
    bench.hear(Heard::ScriptUnknown).reply(Verdict::Fenced, None);
    assert_eq!(bench.dropped().unsure, Some(CommitNo(5)));
}

#[test]
fn a_slot_given_up_waits_for_its_script_before_it_is_taken_again() {
    let mut bench = embedded();
    bench.seal(10, outbox([9]));
    bench.out.clear();
    bench.slot.give_up(&mut bench.out);
    assert_eq!(bench.dropped().unsure, Some(CommitNo(5)));
    assert!(!bench.slot.take(&row(4, 9), RUN, &mut bench.out));
    assert_eq!(bench.done().names(), Vec::<String>::new(), "nobody waits for it");
    let epoch = bench.acquire(&row(5, 10)).epoch;
    assert_eq!(epoch, Epoch(6), "never an epoch that was used, whatever the row says");
}

#[test]
fn take_over_fences_reads_and_goes_on_from_the_marker() {
    let mut bench = Bench::new(Outlet::Log);
    let entries = [3, 4].map(|n| (CommitNo(n), Arc::new(outbox([n + 4]))));
    bench.until_marker(&row(4, 9), entries.to_vec());
    bench.hear(Heard::Marker(bench.ask(), Some(marker(3, 4, 8))));
    assert_eq!(bench.names(), ["Opened"]);
    assert_eq!(bench.slot.covered(), CommitNo(3));
    let publication = bench.slot.publication().unwrap();
    assert_eq!(publication.commits.iter().map(|each| each.n).collect::<Vec<_>>(), [CommitNo(4)]);
    assert_eq!((publication.marker.n, publication.marker.positions), (CommitNo(4), at(9)));
    assert!(bench.slot.publication().is_none(), "one transaction at a time");
    assert!(!bench.slot.may_give());
    bench.hear(Heard::Published(bench.slot.epoch(), CommitNo(4)));
    assert!(bench.slot.may_give() && bench.slot.wants_trim());
    bench.slot.idle(&mut bench.out);
    assert_eq!(bench.names(), ["Trim"]);
    bench.done();
    assert!(!bench.slot.wants_trim());
}

#[test]
fn a_store_behind_the_marker_goes_on_at_its_number_and_drops_by_cause() {
    let mut bench = Bench::new(Outlet::Log);
    bench.until_marker(&row(4, 9), Vec::new());
    bench.hear(Heard::Marker(bench.ask(), Some(marker(6, 4, 12))));
    assert_eq!(bench.names(), ["Rebase"]);
    bench.done();
    assert!(matches!(bench.out[0], Do::Lost { from: CommitNo(5), to: CommitNo(6) }), "{:?}", bench.out);
    assert!(
        matches!(&bench.out[1], Do::Opened(opened) if opened.n == CommitNo(6) && opened.positions == at(9))
    );
    let covered = Cause { source: SourceId(0), partition: 0, offset: 11, index: 0 };
    assert!(bench.slot.covers(&covered));
    let commit = bench.seal(14, outbox(9..14));
    let causes: Vec<u64> = commit.outbox.entries().iter().map(|entry| entry.cause.offset).collect();
    assert_eq!((commit.n, causes), (CommitNo(7), vec![12, 13]));
}

#[test]
fn a_marker_of_a_later_epoch_is_fenced_and_outranked() {
    let mut bench = Bench::new(Outlet::Log);
    bench.until_marker(&row(4, 9), Vec::new());
    bench.hear(Heard::Marker(bench.ask(), Some(marker(4, 8, 9))));
    assert!(matches!(&bench.out[..], [Do::Fence(_, ids)] if ids.ids == [txid(OTHER)]), "{:?}", bench.out);
    bench.hear(Heard::Fenced(bench.ask()));
    bench.hear(Heard::Marker(bench.ask(), Some(marker(4, 8, 9))));
    assert!(
        matches!(
            bench.out[..],
            [Do::Script(Script::Acquire { epoch: Epoch(9), expected: (ME, Epoch(5)), .. })]
        ),
        "{:?}",
        bench.out
    );
}

#[test]
fn another_server_run_drops_the_slot_and_names_what_is_lost() {
    let mut bench = embedded();
    bench.seal(10, outbox([9]));
    bench.done();
    bench.out.clear();
    bench.slot.connected(RUN, &mut bench.out);
    assert!(bench.out.is_empty());
    bench.slot.connected(RunId(2), &mut bench.out);
    assert_eq!(bench.dropped().why, Why::Fenced);
    bench.acquire(&row(4, 9));
    assert!(matches!(bench.out[0], Do::Lost { from: CommitNo(5), to: CommitNo(5) }), "{:?}", bench.out);
}

#[test]
fn a_note_counts_the_silos_that_made_it() {
    let next = at(9)[0];
    let mut bench = Bench::new(Outlet::Store);
    let mut seen = row(4, 9);
    seen.noted = Some(Noted { at: next, by: Incarnation(1), times: 2 });
    bench.acquire(&seen);
    assert!(matches!(&bench.out[..], [Do::Opened(opened)] if opened.noted == seen.noted), "{:?}", bench.out);
    for _ in 0..2 {
        bench.out.clear();
        bench.slot.note(next, &mut bench.out);
        assert_eq!(bench.names(), ["Note"]);
        assert_eq!(bench.done().names(), ["Noted"]);
        bench.out.clear();
        bench.slot.rollback(&mut bench.out);
        let Some(Do::Opened(opened)) = bench.out.last() else { panic!("{:?}", bench.out) };
        assert_eq!(
            opened.noted.map(|noted| (noted.at, noted.times)),
            Some((next, 3)),
            "once under one acquire"
        );
    }
    bench.seal(10, Outbox::default());
    bench.done();
    bench.slot.rollback(&mut bench.out);
    let Some(Do::Opened(opened)) = bench.out.last() else { panic!("{:?}", bench.out) };
    assert_eq!(opened.noted, None, "a commit ends the count");
}

#[test]
fn a_question_without_answer_is_asked_again() {
    let mut bench = Bench::new(Outlet::Log);
    bench.acquire(&row(4, 9));
    let first = bench.ask();
    assert!(matches!(&bench.hear(Heard::NoAnswer(first)).out[..], [Do::Fence(_, ids)] if ids.ids.len() == 2));
    assert_ne!(bench.ask(), first);
    assert!(bench.hear(Heard::Fenced(first)).out.is_empty(), "too late");
}

#[test]
fn who_is_not_named_by_the_row_is_fenced_as_everyone() {
    let mut bench = Bench::new(Outlet::Log);
    bench.slot.take(&row(4, 9), RUN, &mut bench.out);
    bench.done();
    let all = TxIds { everyone: true, ids: Vec::new() };
    assert!(matches!(&bench.out[..], [Do::Fence(_, ids)] if *ids == all), "{:?}", bench.out);
}
