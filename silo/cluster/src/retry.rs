//! What to do about a record whose handler fails ([`Culprit`]), or that kills the process ([`Caution`]).
//!
//! Invariant: only a record that failed by itself, alone in its commit, is set aside as poisoned; and a slot never tries
//! for ever: each decision is one of retry, poison, park, and the retries are counted.

use crate::commit::{Noted, Position};
use crate::slot::Opened;

/// A record is set aside when it failed so often.
pub const FAILURES_POISON: u32 = 3;
/// A slot is parked when, after that, it still fails as often again, or when it fails so often without a record.
pub const FAILURES_PARK: u32 = 6;
/// How many records that failed and are not yet passed a slot remembers; one more parks it.
pub const CULPRITS_MAX: usize = 64;
/// Take-overs without a commit between them that make a slot careful.
pub const TRIES_CAREFUL: u32 = 2;
/// A record is set aside when the process ended so often while it was noted. Each such end may have had another cause, so
/// once is not enough: kills from outside, one soon after the other, must not poison an innocent record.
pub const TRIES_POISON: u32 = 4;
/// When it ends so often while the record was noted, the slot is parked: poisoning it did not help.
pub const TRIES_PARK: u32 = 8;
/// How many records a careful slot notes one by one, and then the size of its commits.
pub const RECORDS_CAREFUL: u32 = 64;
/// For how many records a slot stays careful. No commit may hold more records, so a culprit lies among them.
pub const RECORDS_PER_COMMIT_MAX: u32 = 262_144;

/// How records are put into commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// As many as there are.
    Batch,
    /// A few in each commit.
    Small,
    /// One in each commit.
    Single,
    /// One in each commit, and its position is noted in the store before it is applied.
    SingleNoted,
}

impl Mode {
    /// How many records a commit may hold.
    pub const fn records_max(self) -> u32 {
        match self {
            Mode::Batch => RECORDS_PER_COMMIT_MAX,
            Mode::Small => RECORDS_CAREFUL,
            Mode::Single | Mode::SingleNoted => 1,
        }
    }

    /// Whether a record's position is noted before it is applied.
    pub const fn must_note(self) -> bool {
        matches!(self, Mode::SingleNoted)
    }
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Roll back and read on from the last commit.
    Retry,
    /// Roll back; when the record comes again, put it into `poisoned` instead of applying it.
    Poison,
    /// Park the slot, loudly: a person has to look.
    Park,
}

/// Records whose handler failed (a panic or an `Err`), in one slot, and that are not passed yet.
#[derive(Clone, Debug, Default)]
pub struct Culprit {
    /// By source and partition and offset, ascending, with how often each failed.
    failed: Vec<(Position, u32)>,
    /// Failures that no record caused (a seal, a tick) since a commit succeeded.
    without_record: u32,
}

impl Culprit {
    /// One record in each commit until every culprit is passed: only then is it sure who fails.
    pub fn mode(&self) -> Mode {
        if self.failed.is_empty() && self.without_record == 0 { Mode::Batch } else { Mode::Single }
    }

    /// The handler of the record at this position failed.
    pub fn failed(&mut self, at: Position) -> Retry {
        let i = match self.failed.binary_search_by_key(&at, |(position, _)| *position) {
            Ok(i) => i,
            Err(_) if self.failed.len() >= CULPRITS_MAX => return Retry::Park,
            Err(i) => {
                self.failed.insert(i, (at, 0));
                i
            }
        };
        self.failed[i].1 += 1;
        match self.failed[i].1 {
            ..FAILURES_POISON => Retry::Retry,
            FAILURES_POISON..FAILURES_PARK => Retry::Poison,
            FAILURES_PARK.. => Retry::Park,
        }
    }

    /// Something failed that no record caused.
    pub fn failed_without_record(&mut self) -> Retry {
        self.without_record += 1;
        if self.without_record < FAILURES_PARK { Retry::Retry } else { Retry::Park }
    }

    /// Whether the record at this position goes to `poisoned` instead of being applied.
    pub fn is_poison(&self, at: Position) -> bool {
        self.failed
            .binary_search_by_key(&at, |(position, _)| *position)
            .is_ok_and(|i| self.failed[i].1 >= FAILURES_POISON)
    }

    /// A commit is stored that stands at these positions (each the next offset to apply): what lies before is passed.
    pub fn passed(&mut self, positions: &[Position]) {
        self.without_record = 0;
        self.failed.retain(|(at, _)| {
            !positions
                .iter()
                .any(|p| (p.source, p.partition) == (at.source, at.partition) && at.offset < p.offset)
        });
    }
}

/// Care after the process ended in this slot: by a stack overflow, no memory, an endless loop, a kill from outside.
///
/// A take-over raises `tries` in the slot's row, any commit clears it. A slot that comes back with two is careful: it
/// notes each of the next [`RECORDS_CAREFUL`] records before applying it, then goes on in small commits for as many
/// records as one commit can have held. The row counts how many silos noted a record: only an end of the
/// process between the note and the commit that follows it speaks against the record. One that came before the record
/// was reached does not.
#[derive(Clone, Debug)]
pub struct Caution {
    suspect: Option<Noted>,
    noted_left: u32,
    small_left: u32,
}

impl Caution {
    /// As the slot was found.
    pub fn new(opened: &Opened) -> Caution {
        // a note of a record that is passed means nothing: a late copy of it may have been stored after the commit
        let suspect = opened.noted.filter(|noted| {
            crate::positions::offset(&opened.positions, noted.at).is_none_or(|next| next <= noted.at.offset)
        });
        let careful = opened.tries >= TRIES_CAREFUL || suspect.is_some();
        Caution {
            suspect,
            noted_left: if careful { RECORDS_CAREFUL } else { 0 },
            small_left: if careful { RECORDS_PER_COMMIT_MAX } else { 0 },
        }
    }

    /// How the next records are put into commits.
    pub fn mode(&self) -> Mode {
        match (self.noted_left, self.small_left) {
            (1.., _) => Mode::SingleNoted,
            (0, 1..) => Mode::Small,
            (0, 0) => Mode::Batch,
        }
    }

    /// What to do with the record at this position, before it is applied.
    pub fn verdict(&self, at: Position) -> Retry {
        match self.suspect.filter(|suspect| suspect.at == at).map(|suspect| suspect.times) {
            Some(TRIES_PARK..) => Retry::Park,
            Some(TRIES_POISON..) => Retry::Poison,
            _ => Retry::Retry,
        }
    }

    /// A commit with so many records is stored.
    pub fn passed(&mut self, records: u32) {
        self.suspect = None;
        let noted = self.noted_left.min(records);
        self.noted_left -= noted;
        self.small_left = self.small_left.saturating_sub(records - noted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::{CommitNo, Epoch, Incarnation, SourceId};

    fn at(offset: u64) -> Position {
        Position { source: SourceId(0), partition: 0, offset }
    }

    fn opened(next: u64, tries: u32, noted: Option<Noted>) -> Opened {
        Opened { n: CommitNo(7), epoch: Epoch(1), positions: vec![at(next)], tries, noted }
    }

    fn noted(offset: u64, times: u32) -> Option<Noted> {
        Some(Noted { at: at(offset), by: Incarnation(0), times })
    }

    #[test]
    fn the_third_failure_of_a_record_poisons_it() {
        let mut culprit = Culprit::default();
        assert_eq!(culprit.mode(), Mode::Batch);
        assert_eq!(culprit.failed(at(5)), Retry::Retry);
        assert_eq!(culprit.mode(), Mode::Single);
        culprit.passed(&[at(5)]); // commits before the culprit
        assert_eq!(culprit.failed(at(5)), Retry::Retry);
        assert!(!culprit.is_poison(at(5)));
        assert_eq!(culprit.failed(at(5)), Retry::Poison);
        assert!(culprit.is_poison(at(5)) && !culprit.is_poison(at(6)));
        culprit.passed(&[at(6)]);
        assert_eq!(culprit.mode(), Mode::Batch);
        assert!(!culprit.is_poison(at(5)));
    }

    #[test]
    fn two_culprits_are_counted_apart() {
        let mut culprit = Culprit::default();
        for _ in 0..2 {
            assert_eq!(culprit.failed(at(5)), Retry::Retry);
            assert_eq!(culprit.failed(at(9)), Retry::Retry);
        }
        assert_eq!(culprit.failed(at(9)), Retry::Poison);
        culprit.passed(&[at(6)]);
        assert_eq!(culprit.mode(), Mode::Single, "9 is still ahead");
        assert!(culprit.is_poison(at(9)));
    }

    #[test]
    fn a_slot_that_still_fails_is_parked() {
        let mut culprit = Culprit::default();
        let told: Vec<Retry> = (0..6).map(|_| culprit.failed(at(5))).collect();
        use Retry::{Park, Poison, Retry as Again};
        assert_eq!(told, [Again, Again, Poison, Poison, Poison, Park]);
        let mut culprit = Culprit::default();
        let told: Vec<Retry> = (0..6).map(|_| culprit.failed_without_record()).collect();
        assert_eq!(told, [Again, Again, Again, Again, Again, Park]);
        let mut culprit = Culprit::default();
        assert!((0..CULPRITS_MAX as u64).all(|i| culprit.failed(at(i)) == Again));
        assert_eq!(culprit.failed(at(1_000)), Park);
    }

    /// Plays a record that kills against the decisions: what the store's row remembers is `next`, `tries`, `noted`.
    fn kills_until_poisoned(culprit: u64, batch: u64) -> u32 {
        let (mut next, mut tries, mut noted) = (0u64, 0u32, None);
        for kills in 0..50u32 {
            tries += 1;
            let mut caution = Caution::new(&opened(next, tries, noted));
            loop {
                let mode = caution.mode();
                if caution.verdict(at(next)) == Retry::Poison {
                    assert_eq!(next, culprit, "an innocent record is poisoned");
                    return kills;
                }
                if mode.must_note() {
                    noted = Some(Noted::after(noted, at(next), Incarnation(kills.into())));
                }
                let records = u64::from(mode.records_max()).min(batch);
                if next <= culprit && culprit < next + records {
                    break; // killed
                }
                next += records;
                (tries, noted) = (0, None);
                caution.passed(records as u32);
            }
        }
        panic!("never poisoned");
    }

    #[test]
    fn a_record_that_kills_is_found_wherever_it_lies() {
        assert_eq!(kills_until_poisoned(0, 1_000), 5);
        for culprit in [1, 255, 256, 999, 5_000, 123_456] {
            for batch in [1, 7, 1_000, u64::from(RECORDS_PER_COMMIT_MAX)] {
                let kills = kills_until_poisoned(culprit, batch);
                assert!(kills <= 9, "culprit {culprit}, batch {batch}: {kills} kills");
            }
        }
    }

    #[test]
    fn a_first_take_over_is_no_reason_for_care() {
        let caution = Caution::new(&opened(10, 1, None));
        assert_eq!((caution.mode(), caution.verdict(at(10))), (Mode::Batch, Retry::Retry));
    }

    #[test]
    fn a_note_of_a_passed_record_means_nothing() {
        let caution = Caution::new(&opened(10, 1, noted(9, 1)));
        assert_eq!(caution.mode(), Mode::Batch);
        let caution = Caution::new(&opened(10, 3, noted(9, 3)));
        assert_eq!(caution.verdict(at(10)), Retry::Retry);
    }

    #[test]
    fn care_ends_and_a_slot_that_dies_on_a_poisoned_record_is_parked() {
        let mut caution = Caution::new(&opened(10, 2, None));
        assert_eq!(caution.mode(), Mode::SingleNoted);
        for _ in 0..RECORDS_CAREFUL {
            caution.passed(1);
        }
        assert_eq!(caution.mode(), Mode::Small);
        caution.passed(RECORDS_PER_COMMIT_MAX);
        assert_eq!(caution.mode(), Mode::Batch);
        assert_eq!(Caution::new(&opened(10, 9, noted(10, 8))).verdict(at(10)), Retry::Park);
    }
}
