//! What the checker says, against histories whose verdict is known.

mod brute;
mod by_hand;
mod dice;
mod large;
mod objects;
mod planted;
mod random;
mod recorded;
mod simple;
mod simulated;
