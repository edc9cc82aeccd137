//! Pipelines: decoders, the pipeline file, plans and their slots.

pub mod decode;
pub mod file;
pub mod plan;
