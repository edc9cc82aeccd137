#![allow(unused)]

use granary_macros::grain;
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    bursts: u64,
}

#[grain(idle = "ten minutes", crate = granary_core)]
impl Sensor {}

#[derive(Default, Serialize, Deserialize)]
struct Meter {}

#[grain(idle = "0s", turn_max = "1.5s", crate = granary_core)]
impl Meter {}

fn main() {}
