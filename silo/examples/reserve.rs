//! Reserve and confirm: two grains in two slots agree without a transaction across them.
//!
//! An order holds goods of a stock, is paid, then confirms. Every step is a call that may be sent again: it names the
//! order, so the second one changes nothing. A hold that nobody confirms is given back by a reminder.
//!
//! `cargo run --release -p granary --example reserve -- silo --set store.path=goods`
//! `cargo run --release -p granary --example reserve -- call Stock/apples receive 10`
//! `cargo run --release -p granary --example reserve -- call Order/o-1 place '["apples",3]'`

use std::collections::BTreeMap;
use std::process::ExitCode;

use granary::prelude::*;

/// How long goods are held for an order that is not confirmed.
const HOLD_MAX: Span = mins(15);

/// Orders confirmed lately, kept so that a confirmation may be sent again.
const CONFIRMED_MAX: usize = 10_000;

/// What lies on the shelf, and for whom some of it is held.
#[derive(Default, Serialize, Deserialize)]
struct Stock {
    free: u64,
    held: BTreeMap<String, u64>,
    confirmed: Vec<String>,
}

#[grain]
impl Stock {
    fn receive(&mut self, amount: u64) -> u64 {
        self.free += amount;
        self.free
    }

    /// Holds goods for an order; asked again for the same order, it holds what it held.
    fn reserve(&mut self, order: String, amount: u64, cx: &mut Cx) -> Result<()> {
        if self.held.contains_key(&order) || self.confirmed.contains(&order) {
            return Ok(());
        }
        if amount > self.free {
            return Err(Error::rejected(format!("{} of {} are free, {amount} wanted", self.free, cx.key())));
        }
        let give_back = Stock::at(cx.key().clone()).release(order.clone());
        cx.remind(&order, Schedule::once(HOLD_MAX), give_back)?;
        self.free -= amount;
        self.held.insert(order, amount);
        Ok(())
    }

    /// The goods are sold. A hold that was given back meanwhile is an error: reserve again.
    fn confirm(&mut self, order: String, cx: &mut Cx) -> Result<()> {
        if self.confirmed.contains(&order) {
            return Ok(());
        }
        if self.held.remove(&order).is_none() {
            return Err(Error::rejected(format!("nothing is held for {order}")));
        }
        cx.cancel_reminder(&order)?;
        if self.confirmed.len() == CONFIRMED_MAX {
            self.confirmed.remove(0);
        }
        self.confirmed.push(order);
        Ok(())
    }

    /// Gives back what is held for an order, if it still is.
    fn release(&mut self, order: String) {
        self.free += self.held.remove(&order).unwrap_or_default();
    }

    fn free(&self) -> u64 {
        self.free
    }
}

/// One order, in a slot of its own.
#[derive(Default, Serialize, Deserialize)]
struct Order {
    placed: bool,
}

#[grain]
impl Order {
    /// Reserve, do what may fail, confirm. Whoever gets no answer places it again.
    async fn place(&mut self, goods: String, amount: u64, cx: &mut Cx) -> Result<()> {
        let order = cx.key().to_string();
        cx.grain::<Stock>(&goods).reserve(order.clone(), amount).await?;
        // here the order is paid: an error leaves the hold to its reminder
        cx.grain::<Stock>(&goods).confirm(order).await?;
        self.placed = true;
        Ok(())
    }

    fn placed(&self) -> bool {
        self.placed
    }
}

fn main() -> ExitCode {
    granary::cli().host::<Stock>().host::<Order>().run()
}
