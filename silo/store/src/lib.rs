//! The embedded store and log
