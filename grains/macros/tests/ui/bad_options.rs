#![allow(unused)]

use granary_macros::grain;
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    bursts: u64,
}

#[grain(idle = "10", turn_max = 60, queue_max = 0, volatile = true, name = "a/b", version, crate = granary_core)]
impl Sensor {}

fn main() {}
