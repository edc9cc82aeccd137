#![allow(unused)]

use granary_core::Grain;
use granary_macros::grain;
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    bursts: u64,
}

#[grain(crate = granary_core)]
impl Sensor {
    fn bursts(&self) -> u64 {
        self.bursts
    }

    fn rename(&mut self, name: &str) {}
}

fn right() {
    drop(Sensor::at("d-7").bursts());
}

fn main() {}
