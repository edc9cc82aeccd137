//! The grain attribute
