//! Who belongs to the cluster, and who has which slot.
//!
//! | module | holds |
//! |---|---|
//! | `lease` | one silo's membership: joining, renewing, seeing others die, noticing its own end |
//! | `placement` | which member each slot belongs to, and what a silo does about a slot |
//!
//! A silo has one lease: its row in the member table, with a counter it keeps raising. Whoever saw a counter stand still
//! for a whole lease, by its own clock, takes that row out, by compare and set on that very counter. So no clock of
//! another machine counts, and no time limit of the store's.
//!
//! What depends on it: who works on what, and how soon. What does not: who may write. A slot's row names its owner and
//! epoch, and those alone decide ([`crate::slot`]); a silo that was wrongly taken for dead writes nothing any more.

mod lease;
mod placement;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::commit::Incarnation;

pub use lease::{Do, Membership, Out, Terms};
pub use placement::{Placement, Step, View, step, successor};

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
}

/// Whether a member takes slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It does.
    Up,
    /// It gives its slots to others and then goes.
    Leaving,
}

/// The member table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Raised by each change but renewals.
    pub version: u64,
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

    /// Whether both name the same members of the same standing. Versions alone do not tell: after a store has lost its last
    /// writes a version is given a second time, to other members.
    pub fn names_same(&self, other: &Table) -> bool {
        let same = |(a, b): (&Member, &Member)| Member { counter: b.counter, ..a.clone() } == *b;
        (self.version, self.newest, self.members.len()) == (other.version, other.newest, other.members.len())
            && self.members.iter().zip(&other.members).all(same)
    }

    fn place(&self, incarnation: Incarnation) -> Result<usize, usize> {
        self.members.binary_search_by_key(&incarnation, |member| member.incarnation)
    }

    /// Carries a change out: the rules that every store follows. False, and nothing done, when it is refused.
    pub fn apply(&mut self, change: &Change) -> bool {
        match change {
            Change::Join { member, instead_of } => self.join(member, *instead_of),
            Change::Renew { me, counter } => {
                let Ok(at) = self.place(*me) else { return false };
                let row = &mut self.members[at];
                row.counter = row.counter.max(*counter);
                true
            }
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
                if self.members[at].standing == Standing::Up {
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

    fn remove(&mut self, at: usize) {
        self.members.remove(at);
        self.version += 1;
    }
}
