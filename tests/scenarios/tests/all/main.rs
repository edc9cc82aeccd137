//! Scenarios of grains, calls, timers and streams on the engine.

mod kinds;
mod smoke;
