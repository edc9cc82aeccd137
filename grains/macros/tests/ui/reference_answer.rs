#![allow(unused)]

use granary_macros::grain;
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    bursts: u64,
}

#[grain(crate = granary_core)]
impl Sensor {
    fn name(&self) -> &str {
        "sensor"
    }

    fn later(&self) -> impl Future<Output = u64> {
        async { 1 }
    }
}

fn main() {}
