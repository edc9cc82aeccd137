//! Pipelines: decoders, the pipeline file, plans and their slots.

pub mod decode;
