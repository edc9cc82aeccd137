#![allow(unused)]

use granary_macros::grain;
use serde::{Deserialize, Serialize};

#[derive(Default)]
struct Sensor {
    bursts: u64,
}

#[grain(crate = granary_core)]
impl Sensor {}

#[derive(Default, Serialize, Deserialize)]
struct Other;

fn main() {}
