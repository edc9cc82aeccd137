#![allow(unused)]

use granary_macros::grain;
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    bursts: u64,
}

struct Report(u64);

#[grain(crate = granary_core)]
impl Sensor {
    fn report(&self) -> Report {
        Report(self.bursts)
    }
}

fn main() {}
