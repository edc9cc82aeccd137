//! Pipelines: from bytes on a topic to rows on another.
//!
//! | module | holds |
//! |---|---|
//! | [`decode`] | strict decoders: JSON, delimited text, MessagePack |
//! | [`file`](mod@file) | the pipeline file: YAML in, a plan or all its mistakes out |
//! | [`builder`] | the Rust builder: the same plan from closures |
//! | `asked` | patterns and joins as file and builder ask for them, checked for both |
//! | [`plan`] | the one plan that file and builder make |
//! | [`run`] | the plan at work in the slots of a lane |
//! | [`numbered`] | a pipeline by the numbers that its sources and streams have in the cluster |
//! | [`rules`] | the rules file, events for rules, alerts, back-tests |
//! | [`subscribed`] | streams that grains listen to, beside the plan |
//! | [`inject`] | simulated devices and the exact answer to them |
//! | [`compare`] | truth against result |
//!
//! Invariant: nothing here opens a socket or a file, reads a clock, starts a thread or draws a random number.

mod asked;
pub mod builder;
pub mod compare;
pub mod decode;
pub mod file;
pub mod inject;
pub mod numbered;
pub mod plan;
pub mod rules;
pub mod run;
pub mod subscribed;

pub use builder::Stream;
pub use plan::Plan;
pub use run::Slots;
