#![allow(unused)]

use granary_macros::grain;
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    bursts: u64,
}

struct Reading(u64);

#[grain(crate = granary_core)]
impl Sensor {
    fn record(&mut self, reading: Reading) {
        self.bursts += reading.0;
    }
}

fn main() {}
