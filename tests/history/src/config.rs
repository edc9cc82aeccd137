//! How far an order has come.

/// What was placed, and the state after it.
#[derive(Clone)]
pub(crate) struct Config<S> {
    /// The first answered operation that is not placed.
    pub first: usize,
    /// Those after it that are, in ascending order.
    pub ahead: Vec<u32>,
    /// The unknown operations that are, a bit for each, without zeros at the end.
    pub used: Vec<u64>,
    pub state: S,
    pub unknown_in_a_row: u32,
}

impl<S> Config<S> {
    /// Nothing is placed.
    pub fn start(state: S) -> Self {
        Self { first: 0, ahead: Vec::new(), used: Vec::new(), state, unknown_in_a_row: 0 }
    }

    /// Places an answered operation.
    pub fn place(&mut self, i: u32) {
        if let Err(at) = self.ahead.binary_search(&i) {
            self.ahead.insert(at, i);
        }
        while self.ahead.first().is_some_and(|&i| i as usize == self.first) {
            self.ahead.remove(0);
            self.first += 1;
        }
    }

    /// Whether an answered operation is placed.
    pub fn is_placed(&self, i: u32) -> bool {
        (i as usize) < self.first || self.ahead.binary_search(&i).is_ok()
    }

    /// Places an unknown operation.
    pub fn use_unknown(&mut self, u: usize) {
        let word = u / 64;
        if self.used.len() <= word {
            self.used.resize(word + 1, 0);
        }
        self.used[word] |= 1 << (u % 64);
    }

    /// Whether an unknown operation is placed.
    pub fn is_used(&self, u: usize) -> bool {
        self.used.get(u / 64).is_some_and(|word| word >> (u % 64) & 1 == 1)
    }
}
