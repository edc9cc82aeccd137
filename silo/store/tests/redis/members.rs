//! Random changes of the member table on Redis and on the rules: every answer and every table is the same.

use granary_cluster::Incarnation;
use granary_cluster::members::{Change, Member, Standing, Table};

use super::{Server, new_store};

const CHANGES: u64 = 3_000;
/// Above what a script's own numbers hold exactly.
const HIGH: u64 = 1 << 60;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn change(&mut self, table: &Table) -> Change {
        let someone = Incarnation(HIGH + self.roll(12));
        let counter = table.member(someone).map_or(0, |member| member.counter) + self.roll(2);
        match self.roll(8) {
            0..=2 => {
                let names = ["silo 1", "silo-2", "silo-3", "4/name"];
                let (name, address) =
                    (names[self.roll(4) as usize].to_owned(), format!("host:{}", self.roll(6)));
                let namesake = table.members.iter().find(|member| member.name == name);
                let seen = namesake.map(|member| (member.incarnation, member.counter));
                let member =
                    Member { incarnation: someone, name, address, counter: HIGH, standing: Standing::Up };
                Change::Join { member, instead_of: seen.filter(|_| self.roll(2) == 0) }
            }
            3 | 4 => Change::Renew { me: someone, counter: counter + 1 },
            5 => Change::Declare { dead: someone, counter },
            6 => Change::Leave { me: someone },
            _ => Change::Go { me: someone },
        }
    }
}

#[test]
fn changes_are_those_of_the_rules() {
    let server = Server::start(&[]);
    let store = new_store(&server, 1);
    let (mut dice, mut table) = (Dice(7), Table::default());
    let mut refused = 0;
    for i in 0..CHANGES {
        let change = dice.change(&table);
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
