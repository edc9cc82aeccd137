#![allow(unused)]

use granary_macros::grain;
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    bursts: u64,
}

#[grain(crate = granary_core)]
impl Sensor {
    fn add<T: Into<u64>>(&mut self, value: T) {}
    async fn lent<'a>(&'a self) -> u64 {
        self.bursts
    }
    unsafe fn poke(&mut self) {}
}

fn main() {}
