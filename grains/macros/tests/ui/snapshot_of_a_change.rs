#![allow(unused)]

use granary_macros::grain;
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    bursts: u64,
}

#[grain(crate = granary_core)]
impl Sensor {
    #[snapshot]
    fn bump(&mut self) -> u64 {
        self.bursts += 1;
        self.bursts
    }

    #[snapshot(now)]
    fn bursts(&self) -> u64 {
        self.bursts
    }
}

fn main() {}
