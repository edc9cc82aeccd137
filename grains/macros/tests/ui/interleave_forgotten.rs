#![allow(unused)]

use granary_core::Shared;
use granary_macros::grain;
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    bursts: u64,
}

#[grain(crate = granary_core)]
impl Sensor {
    async fn bump(this: &Shared<Self>, by: u64) {
        this.update(|me| me.bursts += by);
    }
}

fn main() {}
