//! A lane at rest: nothing happens on it any more until time moves or somebody asks for something. Whoever moves the
//! clock by hand waits for that.

use granary_cluster::slot::Phase;
use granary_core::Timestamp;

use crate::slot::SlotHost;

use super::Lane;
use super::alarms::Alarm;
use super::moving::Here;

/// A lane, or all lanes of a silo, at rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rest {
    /// When something falls due next, besides what is looked at with every tick.
    pub next: Option<Timestamp>,
    /// Slots that it holds.
    pub held: usize,
    /// Slots that are on their way here or elsewhere, or wait for the store: time has to move for them.
    pub unsettled: usize,
}

impl std::ops::Add for Rest {
    type Output = Rest;

    fn add(self, other: Rest) -> Rest {
        Rest {
            next: self.next.into_iter().chain(other.next).min(),
            held: self.held + other.held,
            unsettled: self.unsettled + other.unsettled,
        }
    }
}

impl Lane {
    /// For a round that had nothing more to do: tells who waits for that, unless something has come meanwhile.
    pub(super) fn tell_rest(&self) {
        let mailbox = &self.mailbox;
        if mailbox.rests.is_empty() || self.next_alarm_in().is_some_and(|wait| wait.is_zero()) {
            return;
        }
        // Taken before the queues are looked at: what its asker told the lane earlier is seen there.
        let askers: Vec<_> = std::iter::from_fn(|| mailbox.rests.pop()).collect();
        if !mailbox.words.is_empty() || !mailbox.calls.is_empty() || !mailbox.woken.is_empty() {
            askers.into_iter().for_each(|asker| mailbox.rests.push(asker));
            return mailbox.ring();
        }
        let rest = self.rest();
        for asker in askers {
            let _ = asker.send(rest); // fails when nobody waits any more
        }
    }

    fn rest(&self) -> Rest {
        let mut rest = Rest { next: self.next_but_ticks(), held: 0, unsettled: 0 };
        for host in self.slots.iter().flatten() {
            rest.held += usize::from(host.inner.borrow().machine.phase() != Phase::Off);
            rest.unsettled += usize::from(is_unsettled(host));
        }
        rest
    }

    fn next_but_ticks(&self) -> Option<Timestamp> {
        self.next_alarm_but(|alarm| matches!(alarm, Alarm::Tick))
    }
}

fn is_unsettled(host: &SlotHost) -> bool {
    let inner = host.inner.borrow();
    let moves = match host.here.get() {
        Here::Yes => !host.is_running.get() && !inner.is_parked && !inner.is_outdated,
        Here::Leaving { .. } => true,
        Here::No => inner.machine.phase() != Phase::Off,
    };
    let waits = host.has_changes.get() || inner.sent.is_some() || !inner.held.is_empty();
    moves || waits || host.gives_at.get().is_some() || host.broken.borrow().is_some()
}
