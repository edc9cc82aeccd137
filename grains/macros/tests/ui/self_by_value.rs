#![allow(unused)]

use std::rc::Rc;
use granary_macros::grain;
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    bursts: u64,
}

#[grain(crate = granary_core)]
impl Sensor {
    fn finish(self) {}
    fn finish_changed(mut self) {}
    fn shared(self: Rc<Self>) {}
}

fn main() {}
