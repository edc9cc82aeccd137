//! Built-in kinds
