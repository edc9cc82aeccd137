//! The kinds that the scenarios call.

mod called;
mod gate;
mod timed;
mod told;

use granary_core::{Call, Grain, GrainId, Key, KindInfo, Method, Result, Span};
use granary_engine::Handle;

pub use called::{Brief, Counter, Doc, OUTSIDE, Ring, Spinner, holds_lane, let_go};
pub use gate::Gate;
pub use timed::{Bill, Ticker};
pub use told::{Guest, HOOKS, Tally};

/// The kinds that scenarios need.
pub fn kinds() -> Vec<&'static KindInfo> {
    vec![
        Counter::info(),
        Gate::info(),
        Ring::info(),
        Doc::info(),
        Brief::info(),
        Spinner::info(),
        Ticker::info(),
        Bill::info(),
        Guest::info(),
        Tally::info(),
    ]
}

/// Awaits the answer to a call, not for ever.
pub async fn answer<M: Method>(call: Call<Handle, M>) -> Result<M::Reply> {
    let what = format!("an answer to {}.{}", M::INFO.kind, M::INFO.name);
    granary_scenarios::soon(&what, call.into_future()).await
}

/// Sends a call now; its answer is awaited later.
pub fn send<M: Method>(call: Call<Handle, M>) -> tokio::task::JoinHandle<Result<M::Reply>> {
    tokio::spawn(call.into_future())
}

/// Awaits a call that was sent.
pub async fn joined<R>(sent: tokio::task::JoinHandle<Result<R>>) -> Result<R> {
    granary_scenarios::soon("an answer to a call sent before", sent)
        .await
        .expect("awaiting a call never panics")
}

/// Waits until so many turns stand at a gate.
pub async fn at_gate(silo: &granary_scenarios::Silo, gate: &str, turns: u64) {
    granary_scenarios::soon(&format!("{turns} turns at gate {gate}"), async {
        let gate = || silo.handle.grain::<Gate>(Key::parse(gate));
        while gate().waiting().await.expect("a gate answers") < turns {
            tokio::time::sleep(Span(1).into()).await;
        }
    })
    .await;
}

/// Waits until the lane of a silo with one lane has looked at its clock and taken all it was sent: a lane that answered
/// three times in a row has begun a round since.
pub async fn settle(silo: &granary_scenarios::Silo) {
    for _ in 0..3 {
        let nobody = GrainId::new("Nobody", "settle");
        let asked = silo.handle.call(nobody, "is_there", Vec::new(), Default::default());
        let answer = granary_scenarios::soon("an answer from the lane", asked).await;
        assert!(matches!(answer, Ok(Err(_))), "there is nobody");
        tokio::time::sleep(Span(1).into()).await;
    }
}

/// Opens a gate for good.
pub async fn open(silo: &granary_scenarios::Silo, gate: &str) {
    answer(silo.handle.grain::<Gate>(Key::parse(gate)).open()).await.expect("a gate opens");
}
