//! The client of a Granary cluster
