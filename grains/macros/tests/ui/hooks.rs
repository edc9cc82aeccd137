#![allow(unused)]

use granary_macros::grain;
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    bursts: u64,
}

#[grain(crate = granary_core)]
impl Sensor {
    fn on_activate(&mut self, value: u64) {}

    #[snapshot]
    fn on_deactivate(&self) -> u64 {
        self.bursts
    }

    fn migrate(state: u64) -> Self {
        Sensor { bursts: state }
    }
}

fn main() {}
