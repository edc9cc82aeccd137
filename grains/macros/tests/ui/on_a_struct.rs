#![allow(unused)]

use granary_macros::grain;
use serde::{Deserialize, Serialize};

#[grain(crate = granary_core)]
#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    bursts: u64,
}

#[grain(crate = granary_core)]
#[derive(Default, Serialize, Deserialize)]
enum Lamp {
    #[default]
    Off,
}

#[grain(crate = granary_core)]
fn bursts() {}

fn main() {}
