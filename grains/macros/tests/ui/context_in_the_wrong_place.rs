#![allow(unused)]

use granary_core::Cx;
use granary_macros::grain;
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    bursts: u64,
}

#[grain(crate = granary_core)]
impl Sensor {
    fn first(&mut self, cx: &mut Cx, value: u64) {}
    fn read_only(&mut self, cx: &Cx) {}
    fn owned(&mut self, cx: Cx) {}
}

fn main() {}
