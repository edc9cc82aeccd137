//! Several silos at one table, from a seed: messages are late or lost, silos pause and end, the store is away.

use granary_core::{SlotId, Span, Timestamp};

use super::*;
use crate::commit::{Generation, SlotRecord, TxId};

const LEASE: Span = Span(2_000);
pub(super) const SLOTS: u16 = 96;
/// After the last fault: a silence of one lease, and as much again for each silo that is declared dead.
const SETTLES_WITHIN_MS: i64 = 20_000;

pub(super) fn member(number: u64, name: &str, address: &str) -> Member {
    let (name, address) = (name.to_owned(), address.to_owned());
    let (standing, generation, report) = (Standing::Up, Generation(1), Report::default());
    Member { incarnation: Incarnation(number), name, address, counter: 0, standing, generation, report }
}

pub(super) fn table_of(names: &[&str]) -> Table {
    let mut table = Table::default();
    for (i, name) in (1..).zip(names) {
        assert!(table.apply(&Change::Join { member: member(i, name, &i.to_string()), instead_of: None }));
    }
    table
}

#[test]
fn a_name_belongs_to_one_living_silo() {
    let mut table = table_of(&["a", "b"]);
    let join =
        |number, address, instead_of| Change::Join { member: member(number, "a", address), instead_of };
    assert!(!table.apply(&join(3, "elsewhere", None)), "another process has the name");
    assert!(!table.apply(&join(3, "elsewhere", Some((Incarnation(1), 4)))), "its counter has moved");
    assert!(table.apply(&join(3, "elsewhere", Some((Incarnation(1), 0)))), "it stood still");
    assert!(table.apply(&join(4, "elsewhere", None)), "nobody else can listen there");
    let version = table.version;
    assert!(table.apply(&join(4, "elsewhere", None)));
    assert_eq!(table.version, version, "what comes twice does nothing");
    assert_eq!(table.members.iter().map(|m| m.incarnation.0).collect::<Vec<_>>(), [2, 4]);
    assert!(table.is_dead(Incarnation(1)) && table.is_dead(Incarnation(3)));
    assert!(!table.is_dead(Incarnation(5)), "not known yet");
}

#[test]
fn who_is_declared_dead_cannot_renew() {
    let mut table = table_of(&["a", "b"]);
    let me = Incarnation(1);
    assert!(table.apply(&Change::Renew { me, counter: 1, report: Report::default(), version_min: 0 }));
    assert!(!table.apply(&Change::Declare { dead: me, counter: 0 }), "the counter has moved");
    assert!(table.apply(&Change::Declare { dead: me, counter: 1 }));
    assert!(table.apply(&Change::Declare { dead: me, counter: 1 }), "twice is once");
    assert!(!table.apply(&Change::Renew { me, counter: 2, report: Report::default(), version_min: 0 }));
    assert!(!table.apply(&Change::Leave { me }));
}

#[test]
fn shares_differ_by_one_and_few_slots_move() {
    let names: Vec<String> = (0..9).map(|i| format!("silo-{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for count in 1..=8 {
        let (few, more) = (table_of(&names[..count]), table_of(&names[..=count]));
        let (before, after) = (Placement::new(&few, SLOTS), Placement::new(&more, SLOTS));
        let shares: Vec<usize> = few.members.iter().map(|m| before.slots_of(m.incarnation).count()).collect();
        let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
        assert!(most - least <= 1, "{shares:?}");
        let moved =
            (0..SLOTS).map(granary_core::SlotId).filter(|s| before.owner(*s) != after.owner(*s)).count();
        let needed = usize::from(SLOTS) / (count + 1);
        assert!(moved <= 2 * needed + 2, "{count} and one more: {moved} moved, {needed} had to");
    }
}

#[test]
fn who_leaves_has_no_share_and_who_comes_back_has_what_it_had() {
    let mut table = table_of(&["a", "b", "c"]);
    let before: Vec<_> = Placement::new(&table, SLOTS).slots_of(Incarnation(2)).collect();
    table.apply(&Change::Leave { me: Incarnation(2) });
    assert_eq!(Placement::new(&table, SLOTS).slots_of(Incarnation(2)).count(), 0);
    table.apply(&Change::Go { me: Incarnation(2) });
    table.apply(&Change::Join { member: member(7, "b", "2"), instead_of: None });
    assert_eq!(Placement::new(&table, SLOTS).slots_of(Incarnation(7)).collect::<Vec<_>>(), before);
    let nobody = Placement::new(&Table::default(), SLOTS);
    assert_eq!(nobody.owner(granary_core::SlotId(3)), Incarnation(0));
}

/// A slot's row; whether its owner holds it.
pub(super) fn row(owner: u64, held: bool) -> SlotRecord {
    let mut row = SlotRecord { owner: Incarnation(owner), ..SlotRecord::new() };
    row.txids.ids.extend(held.then_some(TxId { incarnation: Incarnation(owner), lane: 0 }));
    row
}

/// A rolling upgrade, seen from the table: slots are those of the latest generation among who takes slots.
#[test]
fn slots_are_placed_on_the_latest_generation() {
    let of = |number: u64, name: &str, generation| Member {
        generation: Generation(generation),
        ..member(number, name, &number.to_string())
    };
    let mut table = table_of(&["a", "b", "c"]);
    let owners = |table: &Table| {
        let placed = Placement::new(table, SLOTS);
        let mut owners: Vec<u64> = (0..SLOTS).map(|slot| placed.owner(SlotId(slot)).0).collect();
        owners.sort_unstable();
        owners.dedup();
        owners
    };
    assert_eq!(owners(&table), [1, 2, 3]);
    table.apply(&Change::Join { member: of(4, "d", 2), instead_of: None });
    assert_eq!(owners(&table), [4], "others give what they have");
    let view = View::new(table.clone(), SLOTS);
    assert_eq!(successor(Incarnation(1), SlotId(7), &view), Some(Incarnation(4)));
    table.apply(&Change::Join { member: of(5, "a", 2), instead_of: Some((Incarnation(1), 0)) });
    assert_eq!(owners(&table), [4, 5]);
    table.apply(&Change::Join { member: of(6, "late", 1), instead_of: None });
    assert_eq!(owners(&table), [4, 5], "who comes with the old program has none");
    table.apply(&Change::Leave { me: Incarnation(4) });
    assert_eq!(owners(&table), [5]);
    table.apply(&Change::Leave { me: Incarnation(5) });
    assert_eq!(owners(&table), [2, 3, 6], "what the new ones never had is served meanwhile");
    assert!(table.names_same(&table.clone()));
}

#[test]
fn a_slot_is_taken_from_nobody_or_the_dead_and_waited_for_from_the_living() {
    let table = {
        let mut table = table_of(&["a", "b", "c"]);
        table.apply(&Change::Declare { dead: Incarnation(3), counter: 0 });
        table
    };
    let view = View::new(table, SLOTS);
    let (me, other) = (Incarnation(1), Incarnation(2));
    let mine = view.placement.slots_of(me).next().unwrap();
    assert_eq!(step(me, mine, &row(1, false), &view), Step::Take, "given");
    assert_eq!(step(me, mine, &row(0, false), &view), Step::Take, "new");
    assert_eq!(step(me, mine, &row(3, true), &view), Step::Take, "of a dead silo");
    assert_eq!(step(me, mine, &row(2, true), &view), Step::Wait);
    assert_eq!(step(me, mine, &row(2, false), &view), Step::Take, "given to another, who did not take it");
    assert_eq!(step(me, mine, &row(9, true), &view), Step::Wait, "of a silo the table does not know yet");
    assert_eq!(step(other, mine, &row(2, true), &view), Step::Stay);
    assert_eq!(successor(other, mine, &view), Some(me));
    assert_eq!(successor(me, mine, &view), None);
    assert_eq!(successor(me, mine, &View::default()), None, "there is nobody to give it to");
}

#[test]
fn a_name_that_lives_elsewhere_is_refused_and_a_dead_ones_is_taken() {
    for lives in [true, false] {
        let mut table = table_of(&["a"]);
        let mut at = Timestamp(0);
        let mut second = Membership::new(Incarnation(2), "a", "elsewhere", Terms::of(LEASE), at);
        let mut said = Vec::new();
        for counter in 1..=40 {
            if lives {
                table.apply(&Change::Renew {
                    me: Incarnation(1),
                    counter,
                    report: Report::default(),
                    version_min: 0,
                });
            }
            said.clear();
            second.tick(at, &mut said);
            let asked =
                said.drain(..).find_map(|what| if let Do::Ask(change) = what { Some(change) } else { None });
            if let Some(change) = asked {
                let done = table.apply(&change);
                second.answered(done, table.clone(), at, &mut said);
            }
            if said.iter().any(|what| matches!(what, Do::Members(_) | Do::Out(_))) {
                break;
            }
            at = at + Span(500);
        }
        match (lives, said.last()) {
            (true, Some(Do::Out(Out::NameTaken(namesake)))) => {
                assert_eq!(namesake.incarnation, Incarnation(1))
            }
            (false, Some(Do::Members(table))) => {
                assert_eq!(table.members.len(), 1);
                assert!(at >= Timestamp(0) + LEASE, "after a lease of silence");
            }
            (_, other) => panic!("lives {lives}: {other:?} at {at}"),
        }
    }
}

/// Asks what is due, lets the store carry it out, and loses the answer.
fn ask_in_vain(membership: &mut Membership, table: &mut Table, at: Timestamp) -> bool {
    let mut said = Vec::new();
    membership.tick(at, &mut said);
    let asked = said.iter().find_map(|what| if let Do::Ask(change) = what { Some(change) } else { None });
    let done = asked.is_some_and(|change| table.apply(change));
    membership.unanswered(at);
    done
}

/// Found by the simulation of clusters: the others counted from the first of them, the silo from the last.
#[test]
fn a_renewal_without_answer_is_another_one_the_next_time() {
    let (mut table, mut at) = (table_of(&["b"]), Timestamp(0));
    let mut one = Membership::new(Incarnation(2), "a", "here", Terms::of(LEASE), at);
    let mut said = Vec::new();
    assert!(ask_in_vain(&mut one, &mut table, at), "it has joined and does not know");
    at = one.wakes_at();
    one.tick(at, &mut said);
    one.answered(true, table.clone(), at, &mut said);
    assert_eq!(one.lease_until(), Some(Timestamp(0) + LEASE), "as of the first asking");
    let mut counters = Vec::new();
    for _ in 0..3 {
        at = one.wakes_at();
        assert!(ask_in_vain(&mut one, &mut table, at));
        counters.push(table.member(Incarnation(2)).unwrap().counter);
    }
    assert_eq!(counters, [1, 2, 3], "each can be seen");
}

/// A silo, the table as it knows it, and that of a store which has lost the last join and let another one follow: both
/// have one version.
fn after_a_loss() -> (Membership, Table, Table) {
    let (at, mut said) = (Timestamp(0), Vec::new());
    let mut table = table_of(&["b"]);
    let mut one = Membership::new(Incarnation(2), "a", "here", Terms::of(LEASE), at);
    one.tick(at, &mut said);
    table.apply(&Change::Join { member: member(2, "a", "here"), instead_of: None });
    let mut lost = table.clone();
    table.apply(&Change::Join { member: member(3, "c", "3"), instead_of: None });
    one.answered(true, table.clone(), at, &mut said);
    lost.apply(&Change::Join { member: member(4, "d", "4"), instead_of: None });
    (one, table, lost)
}

/// Found by the simulation of clusters: a silo went on with members that the store had lost.
#[test]
fn a_version_that_is_given_twice_is_news() {
    let (mut one, table, lost) = after_a_loss();
    let mut said = Vec::new();
    assert_eq!(lost.version, table.version);
    for is_news in [true, false] {
        let at = one.wakes_at();
        said.clear();
        one.tick(at, &mut said);
        one.answered(true, lost.clone(), at, &mut said);
        assert_eq!(said.contains(&Do::Members(lost.clone())), is_news);
    }
}

/// Clients take the table of the highest version: what they know has to be older than what is so.
#[test]
fn versions_that_were_known_are_not_given_again() {
    let (mut one, table, mut lost) = after_a_loss();
    let mut said = Vec::new();
    let mut versions = Vec::new();
    for is_other_server in [true, false, false] {
        let at = one.wakes_at();
        said.clear();
        one.tick(at, &mut said);
        let Some(Do::Ask(renewal)) = said.first().cloned() else { panic!("{said:?}") };
        if is_other_server {
            one.another_server(); // while a renewal is on its way that was sent before
        }
        let done = lost.apply(&renewal);
        one.answered(done, lost.clone(), at, &mut said);
        versions.push(lost.version);
    }
    assert_eq!((table.version, &versions[..]), (3, &[3, 4, 4][..]), "raised once, by the next renewal");
}

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// One silo and its wire to the store.
struct Silo {
    membership: Membership,
    /// A question on its way, to arrive then.
    asks: Option<(Timestamp, Change)>,
    /// An answer on its way.
    hears: Option<(Timestamp, bool, Table)>,
    gives_up_at: Timestamp,
    paused_until: Timestamp,
    is_over: bool,
}

struct World {
    dice: Dice,
    now: Timestamp,
    table: Table,
    silos: Vec<Silo>,
    lives: u64,
    away_until: Timestamp,
    /// Nothing is lost any more.
    is_calm: bool,
}

impl World {
    fn start(&mut self, name: &str) {
        self.lives += 1;
        let address = self.lives.to_string();
        let membership = Membership::new(Incarnation(self.lives), name, &address, Terms::of(LEASE), self.now);
        let (never, now) = (Timestamp::MAX, self.now);
        let silo = Silo {
            membership,
            asks: None,
            hears: None,
            gives_up_at: never,
            paused_until: now,
            is_over: false,
        };
        self.silos.push(silo);
    }

    /// A hundredth of a second passes.
    fn pass(&mut self) {
        self.now = self.now + Span(10);
        let now = self.now;
        for i in 0..self.silos.len() {
            let silo = &mut self.silos[i];
            if let Some((_, change)) = silo.asks.take_if(|(at, _)| *at <= now && now >= self.away_until) {
                let done = self.table.apply(&change);
                silo.hears = Some((now + Span(self.dice.below(80)), done, self.table.clone()));
            }
            if silo.is_over || now < silo.paused_until {
                continue;
            }
            let mut said = Vec::new();
            if let Some((_, done, table)) = silo.hears.take_if(|(at, ..)| *at <= now) {
                silo.membership.answered(done, table, now, &mut said);
            } else if now >= silo.gives_up_at && silo.asks.is_none() && silo.hears.is_none() {
                silo.membership.unanswered(now);
            }
            silo.membership.tick(now, &mut said);
            for what in said {
                match what {
                    Do::Ask(change) => {
                        let lost = self.dice.below(20) == 0 && !self.is_calm;
                        silo.asks = (!lost).then_some((now + Span(self.dice.below(80)), change));
                        silo.gives_up_at = now + Span(600);
                    }
                    Do::Out(_) => silo.is_over = true,
                    Do::Members(_) | Do::LeaseOver | Do::LeaseBack | Do::Unfit => {}
                }
            }
            self.check(i);
        }
    }

    /// Who may answer reads is in the table: nobody else can have its slots by the table's word.
    fn check(&self, i: usize) {
        let membership = &self.silos[i].membership;
        let me = membership.me();
        assert!(
            !membership.may_read() || self.table.member(me).is_some(),
            "{me} answers reads at {} and is out of {:?}",
            self.now,
            self.table
        );
        let names = |table: &Table| table.members.iter().map(|m| m.name.clone()).collect::<Vec<_>>();
        let mut once = names(&self.table);
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), self.table.members.len(), "a name is there twice: {:?}", names(&self.table));
    }

    fn fault(&mut self) {
        let i = self.dice.below(self.silos.len() as u64) as usize;
        match self.dice.below(4) {
            0 => self.silos[i].paused_until = self.now + Span(self.dice.below(5_000)),
            1 => self.silos[i].is_over = true,
            2 => self.away_until = self.now + Span(self.dice.below(8_000)),
            _ => {
                let name = ["a", "b", "c", "d"][self.dice.below(4) as usize];
                self.start(name);
            }
        }
    }
}

fn run(seed: u64) {
    let (dice, start) = (Dice(seed), Timestamp(1_000));
    let mut world = World {
        dice,
        now: start,
        table: Table::default(),
        silos: Vec::new(),
        lives: 0,
        away_until: start,
        is_calm: false,
    };
    for name in ["a", "b", "c"] {
        world.start(name);
    }
    let faults = world.dice.below(12);
    for _ in 0..faults {
        for _ in 0..world.dice.below(400) {
            world.pass();
        }
        world.fault();
    }
    world.is_calm = true;
    let quiet = world.away_until.max(world.silos.iter().map(|s| s.paused_until).max().unwrap_or(start));
    while world.now < quiet {
        world.pass();
    }
    let until = world.now.0 + SETTLES_WITHIN_MS;
    while world.now.0 < until {
        world.pass();
    }
    let alive: Vec<_> = world.silos.iter().filter(|silo| !silo.is_over).collect();
    let rows: Vec<_> = world.table.members.iter().map(|member| member.incarnation).collect();
    let mut lives: Vec<_> = alive.iter().map(|silo| silo.membership.me()).collect();
    lives.sort_unstable();
    if alive.is_empty() {
        return; // the dead declare nobody dead
    }
    assert_eq!(rows, lives, "the table names the living");
    for silo in alive {
        assert!(silo.membership.may_read());
        let placed = Placement::new(silo.membership.table(), SLOTS);
        assert_eq!(placed, Placement::new(&world.table, SLOTS), "all place the same way");
    }
}

#[test]
fn the_living_stay_members_and_the_dead_are_found() {
    for seed in 0..2_000 {
        let failed = std::panic::catch_unwind(|| run(seed));
        assert!(failed.is_ok(), "seed {seed}");
    }
}
