//! What must hold of every slot, as code: the simulation checks it after each step, production counts it as metrics.
//!
//! - I1: the stored slot is the result of commits 1..n, each by the owner and epoch then recorded; its inputs are the log up
//!   to the stored positions and the calls of those commits.
//! - I2: visible output is the outbox entries of commits up to the marker, each identity once.
//! - I3: the marker never falls; every acknowledged call is in a commit <= n, or in a range named after a rollback of the
//!   store.
//!
//! A [`Watch`] holds a few numbers per partition, never the history, so it can run beside a slot for ever. What needs the
//! history (that state is the fold of the log) is checked where the history is, in the tests.

use std::fmt;

use granary_core::SlotId;

use crate::commit::{Cause, Commit, CommitNo, Marker, Position, SlotRecord};
use crate::positions;

/// An invariant does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which one.
    pub invariant: Invariant,
    /// Of which slot.
    pub slot: SlotId,
    /// What was seen, for a person.
    pub message: String,
}

/// The invariants, by the names metrics and logs use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invariant {
    /// I1: each commit stands on the one before, by the recorded owner.
    Chain,
    /// I2: each output is visible once, in order, and only from a stored commit.
    Once,
    /// I3: the marker never falls.
    Marker,
    /// I3: an acknowledged call is stored, or named as lost.
    Acknowledged,
}

impl Invariant {
    /// The name.
    pub const fn name(self) -> &'static str {
        match self {
            Invariant::Chain => "chain",
            Invariant::Once => "once",
            Invariant::Marker => "marker",
            Invariant::Acknowledged => "acknowledged",
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invariant {} of slot {} is broken: {}", self.invariant.name(), self.slot, self.message)
    }
}

impl std::error::Error for Broken {}

/// Watches one slot.
#[derive(Clone, Debug)]
pub struct Watch {
    slot: SlotId,
    /// The last visible cause of each partition.
    visible: Vec<Cause>,
    marker: Option<Marker>,
    acknowledged: CommitNo,
}

impl Watch {
    /// Of a slot without history; start it at what is read first.
    pub fn new(slot: SlotId) -> Watch {
        Watch { slot, visible: Vec::new(), marker: None, acknowledged: CommitNo(0) }
    }

    fn broken(&self, invariant: Invariant, message: String) -> Broken {
        Broken { invariant, slot: self.slot, message }
    }

    /// The store carried out a commit: `before` is the row as it was, `after` as it is.
    pub fn stored(&self, before: &SlotRecord, commit: &Commit, after: &SlotRecord) -> Result<(), Broken> {
        let chain = |message| Err(self.broken(Invariant::Chain, message));
        if commit.n != before.n.next() || after.n != commit.n {
            return chain(format!("commit {} on {}, then {}", commit.n, before.n, after.n));
        }
        if (commit.id.incarnation, commit.epoch) != (before.owner, before.epoch) {
            return chain(format!(
                "commit {} by silo {} in epoch {}, but silo {} owns it in epoch {}",
                commit.n, commit.id.incarnation, commit.epoch, before.owner, before.epoch
            ));
        }
        if positions::any_ahead(&before.positions, &after.positions) {
            return chain(format!(
                "commit {} goes back from {:?} to {:?}",
                commit.n, before.positions, after.positions
            ));
        }
        Ok(())
    }

    /// An output became visible: causes of one partition only rise.
    pub fn visible(&mut self, cause: Cause) -> Result<(), Broken> {
        let key = |c: &Cause| (c.source, c.partition);
        match self.visible.binary_search_by_key(&key(&cause), key) {
            Ok(i) if (self.visible[i].offset, self.visible[i].index) >= (cause.offset, cause.index) => {
                let before = self.visible[i];
                Err(self.broken(Invariant::Once, format!("output of {cause:?} after that of {before:?}")))
            }
            Ok(i) => {
                self.visible[i] = cause;
                Ok(())
            }
            Err(i) => {
                self.visible.insert(i, cause);
                Ok(())
            }
        }
    }

    /// A marker was committed.
    pub fn marked(&mut self, marker: &Marker) -> Result<(), Broken> {
        if let Some(before) = &self.marker {
            let falls = marker.n < before.n
                || marker.epoch < before.epoch
                || positions::any_ahead(&before.positions, &marker.positions);
            if falls {
                return Err(self.broken(Invariant::Marker, format!("{marker:?} after {before:?}")));
            }
        }
        self.marker = Some(marker.clone());
        Ok(())
    }

    /// Replies held for commit `n` left; the row stands at `stored`.
    pub fn acknowledged(&mut self, n: CommitNo, stored: CommitNo) -> Result<(), Broken> {
        if n > stored {
            return Err(self.broken(
                Invariant::Acknowledged,
                format!("replies of commit {n} left, commit {stored} is stored"),
            ));
        }
        self.acknowledged = self.acknowledged.max(n);
        Ok(())
    }

    /// A slot opened at commit `n`. `named` is the end of the range its silo named as lost, if it did.
    pub fn opened(&mut self, n: CommitNo, named: Option<CommitNo>) -> Result<(), Broken> {
        let promised = self.acknowledged;
        self.acknowledged = self.acknowledged.min(n);
        if promised > n.max(named.unwrap_or(CommitNo(0))) {
            return Err(self.broken(
                Invariant::Acknowledged,
                format!("commit {promised} was acknowledged, the slot goes on at {n} and names no loss"),
            ));
        }
        Ok(())
    }

    /// A row as read: where it stands is where a whole commit left it.
    pub fn row(&self, record: &SlotRecord) -> Result<(), Broken> {
        let fresh = record.n == CommitNo(0) && !record.positions.iter().all(|p: &Position| p.offset == 0);
        if fresh {
            return Err(self.broken(Invariant::Chain, format!("no commit, but at {:?}", record.positions)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::{CommitId, Epoch, Incarnation, SourceId, TxId};

    fn at(offset: u64) -> Vec<Position> {
        vec![Position { source: SourceId(0), partition: 0, offset }]
    }

    fn cause(partition: u32, offset: u64, index: u32) -> Cause {
        Cause { source: SourceId(0), partition, offset, index }
    }

    fn row(n: u64, offset: u64) -> SlotRecord {
        let mut row = SlotRecord::new();
        (row.owner, row.epoch, row.n, row.positions) = (Incarnation(1), Epoch(3), CommitNo(n), at(offset));
        row
    }

    fn commit(n: u64, epoch: u64) -> Commit {
        Commit {
            slot: SlotId(0),
            epoch: Epoch(epoch),
            n: CommitNo(n),
            id: CommitId { incarnation: Incarnation(1), epoch: Epoch(epoch), n: CommitNo(n) },
            cells: Default::default(),
            positions: at(5),
            outbox: Default::default(),
            trim: CommitNo(0),
        }
    }

    #[test]
    fn commits_stand_on_each_other() {
        let watch = Watch::new(SlotId(0));
        assert_eq!(watch.stored(&row(1, 3), &commit(2, 3), &row(2, 5)), Ok(()));
        for (before, commit, after) in [
            (row(2, 3), commit(2, 3), row(2, 5)),
            (row(1, 3), commit(2, 2), row(2, 5)),
            (row(1, 6), commit(2, 3), row(2, 5)),
        ] {
            let broken = watch.stored(&before, &commit, &after).unwrap_err();
            assert_eq!(broken.invariant, Invariant::Chain);
        }
        assert!(watch.row(&row(0, 3)).is_err());
        assert!(watch.row(&row(0, 0)).is_ok());
    }

    #[test]
    fn an_output_is_visible_once() {
        let mut watch = Watch::new(SlotId(0));
        for each in [cause(0, 1, 0), cause(0, 1, 1), cause(1, 0, 0), cause(0, 4, 0)] {
            assert_eq!(watch.visible(each), Ok(()));
        }
        for again in [cause(0, 4, 0), cause(0, 1, 1), cause(1, 0, 0)] {
            assert_eq!(watch.visible(again).unwrap_err().invariant, Invariant::Once);
        }
    }

    #[test]
    fn a_marker_never_falls() {
        let marker = |n, epoch, offset| Marker {
            n: CommitNo(n),
            epoch: Epoch(epoch),
            txid: TxId { incarnation: Incarnation(1), lane: 0 },
            positions: at(offset),
        };
        let mut watch = Watch::new(SlotId(0));
        for rising in [marker(1, 1, 0), marker(1, 1, 0), marker(2, 2, 7)] {
            assert_eq!(watch.marked(&rising), Ok(()));
        }
        for falling in [marker(1, 2, 7), marker(2, 1, 7), marker(2, 2, 6)] {
            assert_eq!(watch.marked(&falling).unwrap_err().invariant, Invariant::Marker);
        }
    }

    #[test]
    fn an_acknowledged_commit_is_kept_or_named() {
        let mut watch = Watch::new(SlotId(0));
        assert!(watch.acknowledged(CommitNo(3), CommitNo(2)).is_err());
        assert!(watch.acknowledged(CommitNo(3), CommitNo(3)).is_ok());
        assert!(watch.clone().opened(CommitNo(2), None).is_err());
        assert!(watch.clone().opened(CommitNo(3), None).is_ok());
        assert!(watch.opened(CommitNo(2), Some(CommitNo(3))).is_ok());
        assert!(watch.opened(CommitNo(2), None).is_ok(), "named once is enough");
    }
}
