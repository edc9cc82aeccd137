#![allow(unused)]

use granary_macros::grain;
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    bursts: u64,
}

#[grain(crate = granary_core)]
impl Sensor {
    fn at(&self) -> u64 {
        self.bursts
    }

    fn clone(&self) -> u64 {
        self.bursts
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Meter;

#[grain(crate = granary_core)]
impl Meter {
    fn at(number: u64) -> Meter {
        Meter
    }
}

fn main() {}
