//! Lanes, turns, activations and the commit loop
