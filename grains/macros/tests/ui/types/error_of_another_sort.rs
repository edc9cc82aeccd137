#![allow(unused)]

use granary_macros::grain;
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    bursts: u64,
}

#[grain(crate = granary_core)]
impl Sensor {
    fn check(&self) -> Result<u64, String> {
        Err("too hot".to_owned())
    }
}

fn main() {}
