//! What a run is made of: how many silos, which faults, which mistake.

use granary_cluster::Defect;
use granary_cluster::slot::Outlet;

use crate::random::Random;

/// How often each fault may strike in one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A silo ends.
    pub crash: u32,
    /// A silo is declared dead and runs on.
    pub pause: u32,
    /// The store loses its last writes.
    pub rollback: u32,
    /// A request or a reply is lost, or a request arrives late.
    pub lost: u32,
    /// A handler fails.
    pub handler: u32,
}

/// A mistake planted on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// In the slot's machine.
    Slot(Defect),
    /// The store does not check owner and epoch at a commit.
    SkipEpochCheck,
    /// Nobody looks at the store's run: not the store, not the slot.
    SkipRunCheck,
    /// The engine rebuilds a commit whose reply was lost instead of sending the same bytes.
    RebuildCommit,
    /// A cell leaves memory when it is sealed, before the store is known to have it.
    EvictBeforeAcknowledged,
    /// Who fences everyone lets go of what is written down before all of it is fenced.
    ForgetUnfenced,
    /// A silo is declared dead by a time limit of the store's own clock.
    TrustServerClock,
    /// Reads are answered whether or not the lease holds.
    ReadPastLease,
    /// A silo takes what its view gives it, whoever the slot's row names: it waits for no give.
    TakeByPlacement,
    /// A life may join after a later one has: it is taken for dead by who has not heard of it.
    JoinOutOfOrder,
    /// A silo whose own lease is over takes by force a slot that it has waited for.
    ForceWithoutLease,
    /// After the store has lost writes a counter that was seen before still counts as seen.
    BelieveLostRenewals,
    /// A silo takes slots at a server of which its membership has heard nothing yet.
    TakeUnconfirmed,
    /// A silo that stands aside answers reads until its lease is over by itself.
    StandAsideWithLease,
    /// A silo takes from one that stands aside, by its view, without looking at the members again.
    TakeFromUnfitUnconfirmed,
}

impl Mistake {
    /// All of them: the eleven of the executable specification of the protocol, its three rules left out one by one,
    /// eviction before the acknowledgement, and letting go of ids before they are fenced.
    pub const ALL: [Mistake; 16] = [
        Mistake::SkipEpochCheck,
        Mistake::Slot(Defect::PublishBeforeCommit),
        Mistake::Slot(Defect::ForgetMarker),
        Mistake::Slot(Defect::ReplyBeforeCommit),
        Mistake::Slot(Defect::TrimEarly),
        Mistake::RebuildCommit,
        Mistake::Slot(Defect::GiveOpenTransaction),
        Mistake::Slot(Defect::FenceLastOwnerOnly),
        Mistake::Slot(Defect::ReinitWithoutReread),
        Mistake::Slot(Defect::CompareNumbersOnly),
        Mistake::Slot(Defect::ContinueAtStoreN),
        Mistake::Slot(Defect::SkipMarkerReread),
        Mistake::Slot(Defect::MarkerGoesBack),
        Mistake::SkipRunCheck,
        Mistake::EvictBeforeAcknowledged,
        Mistake::ForgetUnfenced,
    ];

    /// Those of a cluster with time and leases.
    pub const OF_MEMBERS: [Mistake; 8] = [
        Mistake::Slot(Defect::GiveOpenTransaction),
        Mistake::Slot(Defect::ReinitWithoutReread),
        Mistake::Slot(Defect::SkipMarkerReread),
        Mistake::TrustServerClock,
        Mistake::ReadPastLease,
        Mistake::TakeByPlacement,
        Mistake::JoinOutOfOrder,
        Mistake::StandAsideWithLease,
    ];

    /// The same, but they take a loss of the store or a long wait just when something else goes wrong, too.
    pub const OF_MEMBERS_RARE: [Mistake; 4] = [
        Mistake::ForceWithoutLease,
        Mistake::BelieveLostRenewals,
        Mistake::TakeUnconfirmed,
        Mistake::TakeFromUnfitUnconfirmed,
    ];

    /// What a run says that finds it: one of these.
    pub fn shows_as(self) -> &'static [&'static str] {
        match self {
            Mistake::SkipEpochCheck => &["invariant chain"],
            Mistake::Slot(Defect::PublishBeforeCommit) => &["published and was never stored"],
            Mistake::Slot(Defect::ReplyBeforeCommit) => &["invariant acknowledged"],
            Mistake::Slot(Defect::ContinueAtStoreN) => &["invariant marker", "it must be"],
            Mistake::RebuildCommit | Mistake::Slot(Defect::TrimEarly) => &["it must be"],
            Mistake::EvictBeforeAcknowledged => &["the stored state is not the fold"],
            Mistake::Slot(Defect::MarkerGoesBack) => &["invariant marker"],
            Mistake::Slot(_) | Mistake::ForgetUnfenced => &["invariant once"],
            Mistake::SkipRunCheck => &["invariant once", "invariant marker"],
            Mistake::TrustServerClock
            | Mistake::ReadPastLease
            | Mistake::TakeByPlacement
            | Mistake::JoinOutOfOrder
            | Mistake::ForceWithoutLease
            | Mistake::BelieveLostRenewals
            | Mistake::TakeUnconfirmed
            | Mistake::StandAsideWithLease
            | Mistake::TakeFromUnfitUnconfirmed => &["it must see", "may answer reads"],
        }
    }
}

/// One kind of run.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// How outputs get to the log.
    pub outlet: Outlet,
    /// Silos at the start.
    pub silos: u64,
    /// Slots.
    pub slots: u16,
    /// Records of each slot.
    pub records: u64,
    /// Whether one record always fails.
    pub poison: bool,
    /// Calls in all.
    pub calls: u32,
    /// Slots given away in all.
    pub gives: u32,
    /// The faults.
    pub faults: Faults,
    /// The planted mistake.
    pub mistake: Option<Mistake>,
    /// Whether silos have leases and time passes ([`crate::members`]).
    pub timed: bool,
}

/// Ends of silos stay below what would set a record aside that was noted each time
/// ([`granary_cluster::retry::TRIES_POISON`] and the one that made the slot careful): an innocent record must come through.
impl Scenario {
    /// Any scenario of the real protocol.
    pub fn any(random: &mut Random) -> Scenario {
        if random.once_in(4) { Scenario::embedded(random) } else { Scenario::cluster(random) }
    }

    /// One process with store and log in one engine, started again when it ends.
    pub fn embedded(random: &mut Random) -> Scenario {
        let faults = Faults {
            crash: random.between(0, 2) as u32,
            pause: 0,
            rollback: random.below(2) as u32,
            lost: random.between(0, 6) as u32,
            handler: random.between(0, 2) as u32,
        };
        Scenario {
            outlet: Outlet::Store,
            silos: 1,
            slots: random.between(1, 3) as u16,
            records: random.between(3, 20),
            poison: random.once_in(3),
            calls: random.between(0, 8) as u32,
            gives: 0,
            faults,
            mistake: None,
            timed: false,
        }
    }

    /// Several silos over an external store and log.
    pub fn cluster(random: &mut Random) -> Scenario {
        let small = random.once_in(2);
        // many kinds of faults at once leave little room for the few that together do harm
        let mut some = |max: u64| if random.once_in(2) { random.between(1, max) as u32 } else { 0 };
        let faults =
            Faults { crash: some(2), pause: some(1), rollback: some(2), lost: some(6), handler: some(2) };
        Scenario {
            outlet: Outlet::Log,
            silos: random.between(1, 3),
            slots: if small { 1 } else { random.between(1, 3) as u16 },
            records: if small { random.between(3, 6) } else { random.between(3, 20) },
            poison: random.once_in(3),
            calls: random.between(0, 8) as u32,
            gives: random.between(0, 3) as u32,
            faults,
            mistake: None,
            timed: false,
        }
    }
}
