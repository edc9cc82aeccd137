//! Webhooks: what is sent to the servers of those who want alerts, and to whom nothing is ever sent.
//!
//! | module | holds |
//! |---|---|
//! | [`endpoint`](mod@endpoint), [`endpoints`](mod@endpoints) | an endpoint as a grain, and the names of all |
//! | [`queue`] | what an endpoint has still to be told, and when |
//! | [`settings`] | how an endpoint wants to be told, and which alerts are for it |
//! | [`sign`] | Standard Webhooks signatures and their verification |
//! | [`guard`] | which addresses an endpoint may have |
//! | [`retry`] | what an answer means, and when to try again |
//! | [`send`] | what sends |
//!
//! ```
//! use granary_alerts::sign::{Headers, Secret, Verifier, verify};
//!
//! let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
//! let signature = secret.sign("al_1", 1_614_265_330, b"{}");
//! let headers = Headers { id: "al_1", timestamp: "1614265330", signature: &signature };
//! let key = Verifier::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
//! assert_eq!(verify(&[key], headers, b"{}", 1_614_265_331), Ok(()));
//! # Ok::<(), granary_alerts::sign::BadSecret>(())
//! ```

pub mod endpoint;
pub mod endpoints;
pub mod guard;
mod message;
pub mod queue;
pub mod retry;
pub mod send;
pub mod settings;
pub mod sign;
