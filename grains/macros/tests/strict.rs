//! Generated code passes the strictest lints a user's crate may set.
#![deny(
    warnings,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    unused,
    unused_qualifications
)]
#![deny(clippy::all, clippy::pedantic)]

use granary_core::{Cx, Grain, Result, Shared};
use granary_macros::grain;
use serde::{Deserialize, Serialize};

/// A meter.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Meter {
    sum: u64,
}

#[grain(crate = granary_core, version = 2, idle = "1d", volatile)]
impl Meter {
    /// Adds.
    async fn add(&mut self, low: u8, high: u8, cx: &mut Cx) -> Result<()> {
        self.sum += u64::from(low) + u64::from(high);
        cx.alert("meter", &self.sum).await
    }

    /// Starts anew.
    #[deprecated = "use `add`"]
    const fn next(&mut self) {
        self.sum = 0;
    }

    /// What is there.
    #[interleave]
    async fn seen(this: &Shared<Self>, cx: &mut Cx) -> u64 {
        let other = cx.grain::<Self>("other").sum().await;
        this.read(|me| me.sum + other.unwrap_or(0))
    }

    const fn sum(&self) -> u64 {
        self.sum
    }
}

#[test]
fn strict_lints_do_not_see_generated_code() {
    assert_eq!(Meter::info().methods.len(), 4);
}
