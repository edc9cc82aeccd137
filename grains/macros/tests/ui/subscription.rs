#![allow(unused)]

use granary_macros::grain;
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    bursts: u64,
}

#[grain(crate = granary_core)]
impl Sensor {
    #[subscribe]
    fn record(&mut self, value: u64) {}

    #[subscribe("readings")]
    fn tick(&mut self) {}

    #[subscribe("readings")]
    fn helper(value: u64) -> u64 {
        value
    }

    #[private]
    #[subscribe("readings")]
    fn hidden(&mut self, value: u64) {}
}

fn main() {}
