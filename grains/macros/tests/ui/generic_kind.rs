#![allow(unused)]

use granary_macros::grain;
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
struct Store<T> {
    value: T,
}

#[grain(crate = granary_core)]
impl<T> Store<T> {
    fn clear(&mut self) {}
}

#[grain(crate = granary_core)]
impl Store<u64> {
    fn value(&self) -> u64 {
        self.value
    }
}

fn main() {}
