//! Webhooks: what is sent to the servers of those who want alerts, and to whom nothing is ever sent.
//!
//! | module | holds |
//! |---|---|
//! | [`endpoint`](mod@endpoint) | what an endpoint has still to be told, and when |
//! | [`sign`] | Standard Webhooks signatures and their verification |
//! | [`guard`] | which addresses an endpoint may have |
//! | [`retry`] | what an answer means, and when to try again |
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
//!
//! Nothing here opens a socket yet: these are the rules that a sender follows.

pub mod endpoint;
pub mod guard;
pub mod retry;
pub mod sign;
