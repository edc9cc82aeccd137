//! The best of many: keys by their values.

use std::cmp::Ordering;

/// Who shares the last place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ties {
    /// Of equal values the smaller key counts.
    #[default]
    Key,
    /// All that equal the last place.
    All,
}

/// Keeps the `n` greatest values, the greatest first, equal ones by key; `order` compares values.
pub fn best<K: Ord, V>(rows: &mut Vec<(K, V)>, n: usize, ties: Ties, order: impl Fn(&V, &V) -> Ordering) {
    rows.sort_by(|(key, value), (other_key, other)| order(other, value).then_with(|| key.cmp(other_key)));
    let last = rows.get(n.wrapping_sub(1)).map(|(_, last)| last);
    let kept = match (ties, last) {
        (Ties::All, Some(last)) => rows.iter().take_while(|(_, value)| order(value, last).is_ge()).count(),
        _ => n,
    };
    rows.truncate(kept);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_are_cut_or_kept() {
        let kept = |n, ties| {
            let mut rows = vec![("y", 1), ("x", 2), ("z", 1), ("w", 0)];
            best(&mut rows, n, ties, Ord::cmp);
            rows
        };
        assert_eq!(kept(2, Ties::Key), [("x", 2), ("y", 1)]);
        assert_eq!(kept(2, Ties::All), [("x", 2), ("y", 1), ("z", 1)]);
        assert_eq!(kept(9, Ties::All).len(), 4);
        assert!(kept(0, Ties::All).is_empty());
    }
}
