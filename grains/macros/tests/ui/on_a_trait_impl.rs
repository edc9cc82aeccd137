#![allow(unused)]

use granary_macros::grain;
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    bursts: u64,
}

trait Counts {
    fn bursts(&self) -> u64;
}

#[grain(crate = granary_core)]
impl Counts for Sensor {
    fn bursts(&self) -> u64 {
        self.bursts
    }
}

fn main() {}
