#![allow(unused)]

use granary_macros::grain;
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    bursts: u64,
}

#[grain(crate = granary_core)]
impl Sensor {
    fn rename(&mut self, name: &str) {}
    fn write(&mut self, bytes: &[u8]) {}
    fn note(&mut self, notes: Vec<(u64, &'static str)>) {}
    fn any(&mut self, value: impl Into<String>) {}
    fn boxed(&mut self, value: Box<dyn Fn()>) {}
}

fn main() {}
