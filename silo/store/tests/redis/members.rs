//! Random changes of the member table on Redis and on the rules: every answer and every table is the same.

use granary_cluster::members::{BUSIEST_MAX, Change, Load, MOVES_MAX, Member, Report, Standing, Table};
use granary_cluster::{Generation, Incarnation};
use granary_core::SlotId;

use super::rules::{Dice, HIGH};
use super::{Server, new_store};

const CHANGES: u64 = 3_000;
/// One that mostly concerns somebody who is there.
fn random_change(dice: &mut Dice, table: &Table) -> Change {
    let newest = table.newest.0.max(HIGH);
    let there = dice.roll(table.members.len() as u64 + 1) as usize;
    let nobody = Incarnation(newest - dice.roll(4));
    let someone = table.members.get(there).map_or(nobody, |member| member.incarnation);
    let counter = table.member(someone).map_or(0, |member| member.counter);
    let seen = counter + u64::from(dice.roll(4) == 0);
    match dice.roll(16) {
        0..=2 => {
            let names = ["silo 1", "silo-2", "silo-3", "4/name"];
            let (name, address) = (names[dice.roll(4) as usize].to_owned(), format!("host:{}", dice.roll(6)));
            let namesake = table.named(&name).map(|member| (member.incarnation, member.counter));
            let incarnation = Incarnation(newest + dice.roll(3));
            let (counter, standing, report) = (HIGH, Standing::Up, random_report(dice));
            let generation = Generation(HIGH + dice.roll(3));
            let member = Member { incarnation, name, address, counter, standing, generation, report };
            Change::Join { member, instead_of: namesake.filter(|_| dice.roll(2) == 0) }
        }
        3..=6 => Change::Renew {
            me: someone,
            counter: seen + 1,
            report: random_report(dice),
            version_min: (table.version + dice.roll(8)).saturating_sub(5),
        },
        7 => Change::Declare { dead: someone, counter: seen },
        8 => Change::Leave { me: someone },
        9..=11 => Change::Unfit { me: someone, counter: seen },
        12 => Change::Fit { me: someone, counter: seen },
        13 | 14 => {
            let names = ["silo 1", "silo-2", "silo-3", "4/name", "none"];
            let to = (dice.roll(3) > 0).then(|| names[dice.roll(5) as usize].to_owned());
            Change::Move { slot: SlotId(dice.roll(12) as u16), to }
        }
        _ => Change::Go { me: someone },
    }
}

fn random_report(dice: &mut Dice) -> Report {
    let busiest =
        (0..dice.roll(BUSIEST_MAX as u64 + 1)).map(|slot| (SlotId(slot as u16), 7 * slot)).collect();
    let load = Load { slots: dice.roll(96) as u32, turns_per_s: dice.roll(1_000), busiest };
    Report { reaches_log: dice.roll(2) == 0, load }
}

#[test]
fn changes_are_those_of_the_rules() {
    let server = Server::start(&[]);
    let store = new_store(&server, 1);
    let (mut dice, mut table) = (Dice(7), Table::default());
    let (mut refused, mut aside, mut placed) = (0, 0, 0);
    for i in 0..CHANGES {
        let change = random_change(&mut dice, &table);
        let done = table.apply(&change);
        refused += u64::from(!done);
        aside += u64::from(table.members.iter().any(|member| member.standing == Standing::Unfit));
        placed += u64::from(!table.moves.is_empty());
        assert_eq!(
            store.change_members(&change).expect("an answer"),
            (done, table.clone()),
            "{i}: {change:?}"
        );
    }
    assert!((CHANGES / 20..CHANGES * 3 / 4).contains(&refused), "{refused} of {CHANGES} were refused");
    assert!(
        aside > CHANGES / 20 && placed > CHANGES / 20,
        "aside {aside} times, slots placed {placed} times"
    );
}

#[test]
fn as_many_slots_are_placed_by_hand_as_the_rules_allow() {
    let server = Server::start(&[]);
    let store = new_store(&server, 1);
    let mut table = Table::default();
    let mut change = |change: Change| {
        let done = table.apply(&change);
        assert_eq!(store.change_members(&change).expect("an answer"), (done, table.clone()), "{change:?}");
        done
    };
    let (name, address) = ("silo".to_owned(), "host:1".to_owned());
    let (counter, standing, report) = (0, Standing::Up, Report::default());
    let generation = Generation(1);
    let member = Member { incarnation: Incarnation(1), name, address, counter, standing, generation, report };
    assert!(change(Change::Join { member, instead_of: None }));
    let to = |slot: usize| Change::Move { slot: SlotId(slot as u16), to: Some("silo".to_owned()) };
    assert!((0..MOVES_MAX).all(|slot| change(to(slot))));
    assert!(!change(to(MOVES_MAX)) && change(to(3)));
    assert!(change(Change::Move { slot: SlotId(3), to: None }) && change(to(MOVES_MAX)));
}
