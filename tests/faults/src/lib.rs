//! What the tests of the binary share: kinds of grains that count or misbehave, and checks of what a run wrote.
//!
//! | module | holds |
//! |---|---|
//! | [`kinds`] | the kinds that `granary-under-test` hosts |
//! | [`changes`] | every row of a run in order: no identity twice, no revision left out |
//! | [`stored`] | a run's store, looked at from outside |

pub mod changes;
pub mod kinds;
pub mod stored;
