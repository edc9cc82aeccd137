//! Calls the grain of `counter.rs` from another process: `cargo run --release -p granary --example caller`

use granary::prelude::*;

#[derive(Default, Serialize, Deserialize)]
struct Counter;

#[grain]
impl Counter {
    fn add(&mut self, n: u64) -> u64 {
        unreachable!("{n} is added by the program that hosts the grain")
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let client = Client::connect("127.0.0.1:7400").await?; // or several silos: "alpha:7400,beta:7400"
    let total = client.grain::<Counter>("apples").add(3).timeout(secs(5)).idempotency_key("order-17").await?;
    println!("{total}");
    Ok(())
}
