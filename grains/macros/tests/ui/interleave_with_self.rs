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
    #[interleave]
    async fn bump(&self, by: u64) {}

    #[interleave]
    async fn bump_nothing(by: u64) {}

    #[interleave]
    async fn bump_exclusively(this: &mut Shared<Self>) {}
}

fn main() {}
