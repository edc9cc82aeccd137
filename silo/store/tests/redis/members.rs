//! Random changes of the member table on Redis and on the rules: every answer and every table is the same.

use granary_cluster::Incarnation;
use granary_cluster::members::{BUSIEST_MAX, Change, Load, Member, Report, Standing, Table};
use granary_core::SlotId;

use super::rules::{Dice, HIGH};
use super::{Server, new_store};

const CHANGES: u64 = 3_000;
fn random_change(dice: &mut Dice, table: &Table) -> Change {
    let someone = Incarnation(HIGH + dice.roll(12));
    let counter = table.member(someone).map_or(0, |member| member.counter) + dice.roll(2);
    let mut report = || {
        let busiest =
            (0..dice.roll(BUSIEST_MAX as u64 + 1)).map(|slot| (SlotId(slot as u16), 7 * slot)).collect();
        let load = Load { slots: dice.roll(96) as u32, turns_per_s: dice.roll(1_000), busiest };
        Report { reaches_log: dice.roll(2) == 0, load }
    };
    let report = report();
    match dice.roll(14) {
        0..=2 => {
            let names = ["silo 1", "silo-2", "silo-3", "4/name"];
            let (name, address) = (names[dice.roll(4) as usize].to_owned(), format!("host:{}", dice.roll(6)));
            let namesake = table.named(&name);
            let seen = namesake.map(|member| (member.incarnation, member.counter));
            let member =
                Member { incarnation: someone, name, address, counter: HIGH, standing: Standing::Up, report };
            Change::Join { member, instead_of: seen.filter(|_| dice.roll(2) == 0) }
        }
        3 | 4 => Change::Renew { me: someone, counter: counter + 1, report },
        5 => Change::Declare { dead: someone, counter },
        6 => Change::Leave { me: someone },
        7..=9 => Change::Unfit { me: someone, counter },
        10 => Change::Fit { me: someone, counter },
        11 | 12 => {
            let names = ["silo 1", "silo-2", "silo-3", "4/name", "none"];
            let to = (dice.roll(3) > 0).then(|| names[dice.roll(5) as usize].to_owned());
            Change::Move { slot: SlotId(dice.roll(400) as u16), to }
        }
        _ => Change::Go { me: someone },
    }
}

#[test]
fn changes_are_those_of_the_rules() {
    let server = Server::start(&[]);
    let store = new_store(&server, 1);
    let (mut dice, mut table) = (Dice(7), Table::default());
    let mut refused = 0;
    for i in 0..CHANGES {
        let change = random_change(&mut dice, &table);
        let done = table.apply(&change);
        refused += u64::from(!done);
        assert_eq!(
            store.change_members(&change).expect("an answer"),
            (done, table.clone()),
            "{i}: {change:?}"
        );
    }
    assert!((CHANGES / 20..CHANGES * 3 / 4).contains(&refused), "{refused} of {CHANGES} were refused");
}
