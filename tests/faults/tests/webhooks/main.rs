//! Webhooks: what is sent, to whom, how often, and what two libraries of others make of it.

#![allow(clippy::unwrap_used)] // tests: a failed expectation ends the test

#[path = "../all/kit.rs"]
#[allow(dead_code)]
mod kit;

mod endpoint;
mod libraries;
mod mutes;
mod send;
mod silo;
