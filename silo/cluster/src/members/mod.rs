//! Who belongs to the cluster, and who has which slot.
//!
//! | module | holds |
//! |---|---|
//! | `lease` | one silo's membership: joining, renewing, seeing others die, noticing its own end |
//! | `placement` | which member each slot belongs to, and what a silo does about a slot |
//! | `report` | what a silo tells of itself with each renewal |
//!
//! A silo has one lease: its row in the member table, with a counter it keeps raising. Whoever saw a counter stand still
//! for a whole lease, by its own clock, takes that row out, by compare and set on that very counter. So no clock of
//! another machine counts, and no time limit of the store's.
//!
//! What depends on it: who works on what, and how soon. What does not: who may write. A slot's row names its owner and
//! epoch, and those alone decide ([`crate::slot`]); a silo that was wrongly taken for dead writes nothing any more.

#[cfg(test)]
mod aside;
mod lease;
mod placement;
mod report;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use granary_core::SlotId;
use serde::{Deserialize, Serialize};

use crate::commit::{Generation, Incarnation};

pub use lease::{Do, Membership, Out, Terms};
pub use placement::{Placement, Step, View, eligible, step, successor};
pub use report::{BUSIEST_MAX, Load, NoLoad, Report};

/// Slots that may be placed by hand at a time: the others are placed by the rule.
pub const MOVES_MAX: usize = 256;

/// One life of a silo in the member table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Which life.
    pub incarnation: Incarnation,
    /// The silo's name: one living silo has it.
    pub name: String,
    /// Where others reach it, `host:port`.
    pub address: String,
    /// Raised by each renewal of its lease.
    pub counter: u64,
    /// Whether it takes slots.
    pub standing: Standing,
    /// The generation of what it runs: only those of the latest one have slots.
    pub generation: Generation,
    /// What it tells of itself, renewed with the counter.
    pub report: Report,
}

impl Member {
    /// Whether both are the same but for what each renewal changes.
    fn is_same(&self, other: &Member) -> bool {
        let Member { incarnation, name, address, standing, generation, counter: _, report: _ } = self;
        (incarnation, name, address, standing, generation)
            == (&other.incarnation, &other.name, &other.address, &other.standing, &other.generation)
    }
}

/// Whether a member takes slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It does.
    Up,
    /// It does not for now: it has not reached the log for long, and another silo does. Its slots are taken, and it fenced.
    Unfit,
    /// It gives its slots to others and then goes.
    Leaving,
}

/// The member table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Raised by each change but renewals.
    pub version: u64,
    /// Slots that a person has placed, each on the silo of this name: there it is while that one takes slots.
    pub moves: BTreeMap<SlotId, String>,
    /// The latest life that ever joined: who is not in the table and not later than this is dead.
    pub newest: Incarnation,
    /// The living, ascending by incarnation.
    pub members: Vec<Member>,
}

/// One atomic step of the member table. What comes twice does nothing the second time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new life, with counter 0. Lives join in the order of their numbers: one that a later one has overtaken is refused,
    /// since it would be held for dead ([`Table::is_dead`]); it comes back as another. Refused, too, while another member has its name, unless that one is named here, with the
    /// counter at which it was seen to stand still, or has the same address: two processes cannot listen there.
    Join {
        /// The new row.
        member: Member,
        /// The row it replaces.
        instead_of: Option<(Incarnation, u64)>,
    },
    /// The lease goes on. Refused when the row is gone: it was declared dead.
    Renew {
        /// Who.
        me: Incarnation,
        /// The counter from now on.
        counter: u64,
        /// What it tells of itself.
        report: Report,
        /// The table has at least this version afterwards: versions known to a living silo are not given again after a
        /// store has lost its last writes.
        version_min: u64,
    },
    /// It has not reached the log for long and stands aside. Refused when no other silo that takes slots reaches the log,
    /// and when its counter has moved: what was sent long ago says nothing of now.
    Unfit {
        /// Who.
        me: Incarnation,
        /// The counter that it gave itself last.
        counter: u64,
    },
    /// It reaches the log again. Refused as the last one is.
    Fit {
        /// Who.
        me: Incarnation,
        /// The counter that it gave itself last.
        counter: u64,
    },
    /// A person places a slot, or leaves it to the rule again. Refused when no member has that name, and when
    /// [`MOVES_MAX`] others are placed.
    Move {
        /// Which.
        slot: SlotId,
        /// The name of the silo it is to be on; `None`: wherever the rule puts it.
        to: Option<String>,
    },
    /// A counter stood still for a whole lease. Refused when it has moved.
    Declare {
        /// Who is dead.
        dead: Incarnation,
        /// The counter that was seen.
        counter: u64,
    },
    /// It takes no more slots. Refused when the row is gone.
    Leave {
        /// Who.
        me: Incarnation,
    },
    /// It has no more slots and ends.
    Go {
        /// Who.
        me: Incarnation,
    },
}

impl Table {
    /// The row of a life.
    pub fn member(&self, incarnation: Incarnation) -> Option<&Member> {
        self.place(incarnation).ok().map(|at| &self.members[at])
    }

    /// The row of the silo with this name.
    pub fn named(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    /// Whether this life has joined and is in the table no more. False for one of which the table does not know yet.
    pub fn is_dead(&self, incarnation: Incarnation) -> bool {
        incarnation <= self.newest && self.member(incarnation).is_none()
    }

    /// Whether both name the same members of the same standing, and the same slots placed by hand. Versions alone do not tell: after a store has lost its last
    /// writes a version may be given a second time, to other members, before a silo renews that knew the first.
    pub fn names_same(&self, other: &Table) -> bool {
        (self.version, self.newest, self.members.len()) == (other.version, other.newest, other.members.len())
            && self.members.iter().zip(&other.members).all(|(a, b)| a.is_same(b))
            && self.moves == other.moves
    }

    fn place(&self, incarnation: Incarnation) -> Result<usize, usize> {
        self.members.binary_search_by_key(&incarnation, |member| member.incarnation)
    }

    /// Carries a change out: the rules that every store follows. False, and nothing done, when it is refused.
    pub fn apply(&mut self, change: &Change) -> bool {
        match change {
            Change::Join { member, instead_of } => self.join(member, *instead_of),
            Change::Renew { me, counter, report, version_min } => {
                let Ok(at) = self.place(*me) else { return false };
                self.version = self.version.max(*version_min);
                let row = &mut self.members[at];
                if row.counter < *counter {
                    (row.counter, row.report) = (*counter, report.clone());
                }
                true
            }
            Change::Unfit { me, counter } => self.stand(*me, *counter, Standing::Unfit),
            Change::Fit { me, counter } => self.stand(*me, *counter, Standing::Up),
            Change::Move { slot, to } => self.move_slot(*slot, to.as_deref()),
            Change::Declare { dead, counter } => {
                let Ok(at) = self.place(*dead) else { return true };
                let stands_still = self.members[at].counter == *counter;
                if stands_still {
                    self.remove(at);
                }
                stands_still
            }
            Change::Leave { me } => {
                let Ok(at) = self.place(*me) else { return false };
                if self.members[at].standing != Standing::Leaving {
                    self.members[at].standing = Standing::Leaving;
                    self.version += 1;
                }
                true
            }
            Change::Go { me } => {
                if let Ok(at) = self.place(*me) {
                    self.remove(at);
                }
                true
            }
        }
    }

    fn join(&mut self, member: &Member, instead_of: Option<(Incarnation, u64)>) -> bool {
        let Err(_) = self.place(member.incarnation) else { return true };
        if member.incarnation <= self.newest {
            return false; // it would be held for dead by whoever looked before
        }
        let namesake = self.members.iter().position(|other| other.name == member.name);
        if let Some(at) = namesake {
            let other = &self.members[at];
            let stood_still = instead_of == Some((other.incarnation, other.counter));
            if !stood_still && other.address != member.address {
                return false;
            }
            self.remove(at);
        }
        let at = self.place(member.incarnation).unwrap_or_else(|at| at);
        self.members.insert(at, member.clone());
        self.newest = member.incarnation;
        self.version += 1;
        true
    }

    /// Whether another silo that takes slots reaches the log, as it says itself.
    pub fn another_reaches_log(&self, me: Incarnation) -> bool {
        let can_take = |other: &Member| other.standing == Standing::Up && other.report.reaches_log;
        self.members.iter().any(|other| other.incarnation != me && can_take(other))
    }

    /// Between up and unfit.
    fn stand(&mut self, me: Incarnation, counter: u64, standing: Standing) -> bool {
        let Ok(at) = self.place(me) else { return false };
        let row = &self.members[at];
        if row.standing == Standing::Leaving || row.counter != counter {
            return false;
        }
        if row.standing == standing {
            return true;
        }
        if standing == Standing::Unfit && !self.another_reaches_log(me) {
            return false;
        }
        self.members[at].standing = standing;
        self.version += 1;
        true
    }

    fn move_slot(&mut self, slot: SlotId, to: Option<&str>) -> bool {
        let Some(name) = to else {
            self.version += u64::from(self.moves.remove(&slot).is_some());
            return true;
        };
        let is_full = self.moves.len() >= MOVES_MAX && !self.moves.contains_key(&slot);
        if is_full || self.named(name).is_none() {
            return false;
        }
        if self.moves.get(&slot).is_none_or(|before| before != name) {
            self.moves.insert(slot, name.to_owned());
            self.version += 1;
        }
        true
    }

    fn remove(&mut self, at: usize) {
        self.members.remove(at);
        self.version += 1;
    }
}
