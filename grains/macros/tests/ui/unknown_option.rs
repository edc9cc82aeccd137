#![allow(unused)]

use granary_macros::grain;
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    bursts: u64,
}

#[grain(idel = "10m", replicas = 3, version = 2, version = 3, crate = granary_core)]
impl Sensor {}

fn main() {}
