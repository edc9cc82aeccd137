//! Tests: a silo that does not reach the log stands aside, and slots placed by hand.

use granary_core::{SlotId, Span, Timestamp};

use super::tests::{SLOTS, member, row, table_of};
use super::*;

const LEASE: Span = Span(2_000);
const AWAY_MAX: Span = Span(5_000);

fn says(reaches_log: bool) -> Report {
    Report { reaches_log, ..Report::default() }
}

fn renew(table: &mut Table, me: u64, counter: u64, reaches_log: bool) {
    assert!(table.apply(&Change::Renew {
        me: Incarnation(me),
        counter,
        report: says(reaches_log),
        version_min: 0
    }));
}

#[test]
fn who_lacks_the_log_stands_aside_only_while_another_has_it() {
    let mut table = table_of(&["a", "b"]);
    let (me, other) = (Incarnation(1), Incarnation(2));
    assert!(!table.apply(&Change::Unfit { me, counter: 0 }), "nobody is known to reach it");
    renew(&mut table, 2, 1, true);
    assert!(!table.apply(&Change::Unfit { me, counter: 4 }), "its counter is another one");
    let version = table.version;
    assert!(table.apply(&Change::Unfit { me, counter: 0 }));
    assert!(table.apply(&Change::Unfit { me, counter: 0 }), "twice is once");
    assert_eq!(table.version, version + 1);
    assert!(!table.apply(&Change::Unfit { me: other, counter: 1 }), "the one left takes the slots");
    assert_eq!(Placement::new(&table, SLOTS).slots_of(other).count(), usize::from(SLOTS));
    renew(&mut table, 1, 1, true);
    assert_eq!(table.version, version + 1, "a report is no change of the members");
    assert!(!table.apply(&Change::Fit { me, counter: 0 }), "sent long ago");
    assert!(table.apply(&Change::Fit { me, counter: 1 }));
    assert_eq!(Placement::new(&table, SLOTS).slots_of(me).count(), usize::from(SLOTS) / 2);
    assert!(table.apply(&Change::Leave { me }));
    assert!(!table.apply(&Change::Fit { me, counter: 1 }), "who leaves goes");
}

#[test]
fn the_slots_of_one_that_stands_aside_are_taken_and_those_of_the_others_waited_for() {
    let mut table = table_of(&["a", "b"]);
    renew(&mut table, 2, 1, true);
    table.apply(&Change::Unfit { me: Incarnation(1), counter: 0 });
    let view = View::new(table, SLOTS);
    assert_eq!(step(Incarnation(2), SlotId(0), &row(1, true), &view), Step::TakeFromUnfit);
    assert_eq!(step(Incarnation(2), SlotId(0), &row(1, false), &view), Step::Take, "given before");
    assert_eq!(step(Incarnation(1), SlotId(0), &row(2, true), &view), Step::Stay);
}

/// A membership and its table, asked and answered at once.
struct One {
    membership: Membership,
    table: Table,
    now: Timestamp,
    said: Vec<Do>,
}

impl One {
    fn new(others: &[&str]) -> One {
        let now = Timestamp(0);
        let terms = Terms::of(LEASE).log_away_max(AWAY_MAX);
        let me = others.len() as u64 + 1;
        let membership = Membership::new(Incarnation(me), "me", "here", terms, now);
        One { membership, table: table_of(others), now, said: Vec::new() }
    }

    /// So much time passes; the others renew meanwhile.
    fn pass(&mut self, span: Span, reports: &[bool]) {
        let end = self.now + span;
        while self.now < end {
            self.now = self.now + Span(50);
            let counter = self.now.0 as u64;
            for (me, reaches) in (1..).zip(reports) {
                renew(&mut self.table, me, counter, *reaches);
            }
            let mut said = Vec::new();
            self.membership.tick(self.now, &mut said);
            while let Some(what) = said.first().cloned() {
                said.remove(0);
                if let Do::Ask(change) = &what {
                    let is_aside = matches!(change, Change::Unfit { .. });
                    assert!(!is_aside || !self.membership.may_read(), "its lease is over before it asks");
                    let done = self.table.apply(change);
                    self.membership.answered(done, self.table.clone(), self.now, &mut said);
                }
                self.said.push(what);
            }
        }
    }

    fn standing(&self) -> Standing {
        self.table.member(self.membership.me()).expect("a member").standing
    }

    fn report(&mut self, reaches_log: bool) {
        self.membership.report(says(reaches_log), self.now);
    }

    fn has_said(&mut self, what: &Do) -> bool {
        let has = self.said.contains(what);
        self.said.clear();
        has
    }
}

#[test]
fn a_silo_stands_aside_after_a_while_and_comes_back() {
    let mut one = One::new(&["a"]);
    one.pass(Span(1_000), &[true]);
    one.report(false);
    one.pass(Span(AWAY_MAX.0 - 500), &[true]);
    assert!(one.standing() == Standing::Up && one.membership.may_read());
    one.pass(Span(1_000), &[true]);
    assert!(one.standing() == Standing::Unfit && !one.membership.may_read());
    assert!(one.has_said(&Do::Unfit));
    one.pass(Span(10_000), &[true]);
    assert!(one.standing() == Standing::Unfit && !one.membership.may_read(), "no renewal gives it a lease");
    one.report(true);
    one.pass(Span(1_000), &[true]);
    assert!(one.standing() == Standing::Up && one.membership.may_read());
    assert!(one.has_said(&Do::LeaseBack));
}

#[test]
fn nobody_stands_aside_while_nobody_reaches_the_log() {
    let mut one = One::new(&["a", "b"]);
    one.pass(Span(1_000), &[true, true]);
    one.report(false);
    one.pass(Span(30_000), &[false, false]);
    assert!(one.standing() == Standing::Up && one.membership.may_read());
    one.pass(Span(1_000), &[false, true]);
    assert_eq!(one.standing(), Standing::Unfit, "now another does");
}

/// A store that lost the change by which a silo came back names it as standing aside again.
#[test]
fn a_silo_that_finds_itself_aside_drops_what_it_has() {
    let mut one = One::new(&["a"]);
    one.pass(Span(1_000), &[true]);
    one.said.clear();
    let me = one.membership.me();
    let counter = one.table.member(me).expect("a member").counter;
    assert!(one.table.apply(&Change::Unfit { me, counter }));
    one.membership.another_server();
    one.pass(Span(300), &[true]);
    assert!(one.said.contains(&Do::LeaseOver) && one.said.contains(&Do::Unfit));
    assert_eq!(one.membership.read_after(), None, "others may have leases that this server knows nothing of");
    one.pass(Span(3_000), &[true]);
    assert!(one.standing() == Standing::Up && one.membership.may_read(), "it reaches the log");
    assert!(one.membership.read_after().is_some());
}

#[test]
fn a_slot_is_where_a_person_has_sent_it_while_that_silo_takes_slots() {
    let mut table = table_of(&["a", "b", "c"]);
    let before = Placement::new(&table, SLOTS);
    let slot = before.slots_of(Incarnation(1)).next().expect("a slot");
    let to = |name: &str| Change::Move { slot, to: Some(name.to_owned()) };
    assert!(!table.apply(&to("d")), "there is no such silo");
    let version = table.version;
    assert!(table.apply(&to("b")) && table.apply(&to("b")));
    assert_eq!(table.version, version + 1);
    let after = Placement::new(&table, SLOTS);
    let moved: Vec<_> = (0..SLOTS).map(SlotId).filter(|s| before.owner(*s) != after.owner(*s)).collect();
    assert_eq!((moved, after.owner(slot)), (vec![slot], Incarnation(2)), "no other slot moves for it");
    table.apply(&Change::Leave { me: Incarnation(2) });
    assert_ne!(Placement::new(&table, SLOTS).owner(slot), Incarnation(2));
    table.apply(&Change::Go { me: Incarnation(2) });
    table.apply(&Change::Join { member: member(9, "b", "2"), instead_of: None });
    assert_eq!(Placement::new(&table, SLOTS).owner(slot), Incarnation(9), "it is there again");
    assert!(table.apply(&Change::Move { slot, to: None }));
    assert_eq!(Placement::new(&table, SLOTS).owner(slot), Incarnation(1));
}

#[test]
fn so_many_slots_are_placed_by_hand_and_no_more() {
    let mut table = table_of(&["a"]);
    let to = |slot: usize| Change::Move { slot: SlotId(slot as u16), to: Some("a".to_owned()) };
    assert!((0..MOVES_MAX).all(|slot| table.apply(&to(slot))));
    assert!(!table.apply(&to(MOVES_MAX)));
    assert!(table.apply(&to(0)), "it is there already");
    assert!(table.apply(&Change::Move { slot: SlotId(0), to: None }) && table.apply(&to(MOVES_MAX)));
}
