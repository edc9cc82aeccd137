//! What the tests of this crate share.
//!
//! | module | holds |
//! |---|---|
//! | [`generate`] | random cases from a seed |
//! | [`oracle`] | what must come out of a case, found the slow and simple way |

pub mod generate;
pub mod oracle;
