#![allow(unused)]

use granary_macros::grain;
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    bursts: u64,
}

#[grain(crate = granary_core)]
impl Sensor {
    fn add(&mut self, (low, high): (u64, u64)) {}
    fn drop_it(&mut self, _: u64) {}
}

fn main() {}
