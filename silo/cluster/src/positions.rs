//! Positions of a slot in its sources: lists sorted by source and partition, each once.

use crate::commit::{Cause, Position};

/// Sorts a list; of two positions in one partition the further one stays.
pub fn normalize(positions: &mut Vec<Position>) {
    positions.sort_unstable();
    positions.reverse();
    positions.dedup_by_key(|p| (p.source, p.partition));
    positions.reverse();
}

/// The next offset of a partition in a sorted list; `None` when the partition is not in it.
pub fn offset(positions: &[Position], of: Position) -> Option<u64> {
    positions
        .binary_search_by_key(&(of.source, of.partition), |p| (p.source, p.partition))
        .ok()
        .map(|i| positions[i].offset)
}

/// Whether the record that caused an output lies below the positions.
pub fn covers(positions: &[Position], cause: &Cause) -> bool {
    let at = Position { source: cause.source, partition: cause.partition, offset: cause.offset };
    offset(positions, at).is_some_and(|next| cause.offset < next)
}

/// Whether any partition stands further in `a` than in `b`.
pub fn any_ahead(a: &[Position], b: &[Position]) -> bool {
    a.iter().any(|p| p.offset > offset(b, *p).unwrap_or(0))
}

/// Raises each position of `a` to that of `b` where `b` is further; both are sorted, so is the result.
pub fn raise(a: &mut Vec<Position>, b: &[Position]) {
    if !any_ahead(b, a) {
        return;
    }
    a.extend_from_slice(b);
    normalize(a);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::SourceId;

    fn at(source: u16, partition: u32, offset: u64) -> Position {
        Position { source: SourceId(source), partition, offset }
    }

    #[test]
    fn the_further_position_of_a_partition_stays() {
        let mut list = vec![at(1, 0, 5), at(0, 2, 9), at(1, 0, 7), at(0, 1, 1)];
        normalize(&mut list);
        assert_eq!(list, [at(0, 1, 1), at(0, 2, 9), at(1, 0, 7)]);
        raise(&mut list, &[at(0, 1, 0), at(0, 2, 12), at(3, 0, 1)]);
        assert_eq!(list, [at(0, 1, 1), at(0, 2, 12), at(1, 0, 7), at(3, 0, 1)]);
    }

    #[test]
    fn a_cause_is_covered_below_the_position_only() {
        let list = [at(0, 1, 5)];
        let cause = |partition, offset| Cause { source: SourceId(0), partition, offset, index: 3 };
        assert!(covers(&list, &cause(1, 4)));
        assert!(!covers(&list, &cause(1, 5)));
        assert!(!covers(&list, &cause(0, 0)));
    }

    #[test]
    fn a_partition_that_is_not_named_stands_at_zero() {
        assert!(any_ahead(&[at(0, 0, 1)], &[]));
        assert!(!any_ahead(&[at(0, 0, 0)], &[]));
        assert!(!any_ahead(&[], &[at(0, 0, 1)]));
    }
}
